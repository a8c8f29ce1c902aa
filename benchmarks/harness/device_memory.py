"""Device memory in use while a process runs, whichever library allocates it (nvidia-smi)."""

from __future__ import annotations

import shutil
import subprocess
import threading

__all__ = ["DeviceMemory", "query_gpu"]

INTERVAL_S = 0.25
QUERY_TIMEOUT_S = 10


def query_gpu(*fields: str) -> list[str] | None:
    """Values that nvidia-smi reports for the first GPU; None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return None
    return [value.strip() for value in lines[0].split(",")]


class DeviceMemory:
    """Peak memory in use while this is open, less what was in use before."""

    def __init__(self) -> None:
        self._before = _used_bytes()
        self._peak = self._before
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def peak_bytes(self) -> int | None:
        if self._before is None or self._peak is None:
            return None
        return self._peak - self._before

    def __enter__(self) -> DeviceMemory:
        if self._before is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL_S):
            used = _used_bytes()
            if used is not None and self._peak is not None:
                self._peak = max(self._peak, used)


def _used_bytes() -> int | None:
    answer = query_gpu("memory.used")
    try:
        return None if answer is None else int(answer[0]) << 20
    except ValueError:
        return None
