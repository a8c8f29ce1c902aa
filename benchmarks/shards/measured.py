"""Processor time, time and memory of a program with all the processes that it starts.

    python -m benchmarks.shards.measured TIMEOUT_S COMMAND ...

Prints a line of JSON. Linux only: processes that a program leaves behind become children of this
one, so that their processor time is counted as well, whatever a program does to be alone.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["main", "measure"]

_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.25
_LEAVE_S = 15.0


def measure(command: list[str], timeout_s: float) -> dict[str, float | int | str]:
    """Run a program, wait for its processes, and say what they took.

    memory_mb: at most at one time, of all processes, pages shared between them counted once; seen
    four times a second. largest_process_mb: at most of any one process, as the system counts it.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    memory = _Memory()
    timer = threading.Timer(timeout_s, process.kill)
    timer.start()
    error = process.communicate()[1].decode("utf-8", "replace").strip().splitlines()
    seconds = time.monotonic() - start
    timer.cancel()
    _reap()
    peak = memory.stop()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "code": process.returncode,
        "cpu_s": used.ru_utime + used.ru_stime,
        "seconds": seconds,
        "memory_mb": peak / 1e6,
        "largest_process_mb": used.ru_maxrss * 1024 / 1e6,
        "error": error[-1] if error and process.returncode else "",
    }


def _reap() -> None:
    """Wait for what the program left behind, and end it if it stays."""
    deadline = time.monotonic() + _LEAVE_S
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            if time.monotonic() > deadline:
                for child in _family(os.getpid())[1:]:
                    with suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
            time.sleep(0.05)


class _Memory:
    """Watches the memory of all processes below this one."""

    def __init__(self) -> None:
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._over.wait(_POLL_S):
            self._peak = max(self._peak, sum(map(_pss_bytes, _family(os.getpid())[1:])))


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _pss_bytes(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(text.partition("\nPss:")[2].split()[0]) * 1024
    return 0


def main() -> None:
    print(json.dumps(measure(sys.argv[2:], float(sys.argv[1]))))


if __name__ == "__main__":
    main()
