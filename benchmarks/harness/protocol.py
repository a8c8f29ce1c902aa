"""The runner's side of a contestant: a process that answers JSON lines."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.contestant import BENCHMARKS
from harness.rows import Row

__all__ = [
    "Worker",
    "WorkerEnded",
    "WorkerError",
    "WorkerTimeout",
    "WorkerUnavailable",
    "describe_exit",
    "last_line",
]

#: Seconds that a contestant has to end by itself.
_EXIT_S = 20.0


class WorkerError(Exception):
    """A contestant failed, died or took too long."""


class WorkerUnavailable(WorkerError):
    """It cannot take part on this machine."""


class WorkerEnded(WorkerError):
    """Its process is gone."""


class WorkerTimeout(WorkerEnded):
    """It took too long and was ended."""


class Worker:
    """A running contestant; leaving the context ends it."""

    def __init__(
        self,
        python: str | Path,
        adapter: str,
        *,
        log: Path,
        threads: int | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """adapter: `module:class`. log: file for what the process prints. threads: None leaves
        their number to the libraries. variables: of the environment, besides this process's.
        """
        self._threads = threads
        self._log_path = log
        self._log = log.open("a", encoding="utf-8")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", **(variables or {})}
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        paths = [str(BENCHMARKS), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        self._process = subprocess.Popen(
            [str(python), "-P", "-m", "harness.worker", adapter],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            start_new_session=True,  # so that what it starts ends with it
        )

    def load(self, options: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """`load_s` counts from the start of the import of its libraries."""
        return self._ask({"do": "load", "options": options, "threads": self._threads}, timeout_s)

    def check(self, timeout_s: float) -> dict[str, Any]:
        """Its comparison with the reference; empty where it has none."""
        return self._ask({"do": "check"}, timeout_s)

    def run(
        self,
        rows: Sequence[Row],
        batch: int,
        timeout_s: float,
        *,
        budget_s: float = 0.0,
        stages: bool = False,
    ) -> dict[str, Any]:
        """Captions of `rows`; see `timing.measure_job` and `Adapter.stages`."""
        listed = [row.to_dict() for row in rows]
        request = {"do": "run", "rows": listed, "batch": batch}
        return self._ask({**request, "budget_s": budget_s, "stages": stages}, timeout_s)

    def tokens(self, rows: Sequence[Row], mode: str, timeout_s: float) -> list[list[int]]:
        """Token ids of each caption."""
        listed = [row.to_dict() for row in rows]
        request = {"do": "tokens", "rows": listed, "mode": mode}
        tokens: list[list[int]] = self._ask(request, timeout_s)["tokens"]
        return tokens

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
        except OSError as error:
            raise WorkerEnded(f"it died; see {self._log_path}") from error
        reply: dict[str, Any] = json.loads(self._read_line(stdout, timeout_s))
        if "unavailable" in reply:
            raise WorkerUnavailable(reply["unavailable"])
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def _read_line(self, stdout: Any, timeout_s: float) -> bytes:
        deadline, line = time.monotonic() + timeout_s, b""
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not selector.select(left_s):
                    self._kill()
                    raise WorkerTimeout(f"it took too long: stopped after {timeout_s:.0f} s")
                chunk = os.read(stdout.fileno(), 1 << 16)
                if not chunk:
                    raise WorkerEnded(self._why_it_ended())
                line += chunk
        return line

    def _why_it_ended(self) -> str:
        status = describe_exit(self._process.wait())
        said = last_line(self._log_path.read_text("utf-8", errors="replace"))
        return f"it ended: {status}" + (f" ({said})" if said else "")

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        stdin = self._process.stdin
        try:
            if stdin is not None and not stdin.closed:
                with suppress(OSError):
                    stdin.write(b'{"do": "exit"}\n')
                    stdin.close()
            self._process.wait(timeout=_EXIT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:  # whatever it started ends too
            self._kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()


def describe_exit(returncode: int) -> str:
    """How a process ended, from the number that `Popen` gives."""
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit code {returncode}"


def last_line(text: str) -> str:
    """The last line that is not blank, where Python names the error; "" if there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""
