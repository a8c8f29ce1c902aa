"""The runner's side of a contestant: a process that answers JSON lines."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contestants import HERE

__all__ = ["Worker", "WorkerError"]


class WorkerError(Exception):
    """A contestant failed, died or took too long."""


class Worker:
    """A running contestant; leaving the context ends it."""

    def __init__(
        self,
        python: str | Path,
        adapter: str,
        *,
        threads: int,
        log: Path,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._threads = threads
        self._log = log.open("a", encoding="utf-8")
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            **(variables or {}),
        }
        # Beside worker.py, the modules of benchmarks/ and what the caller names.
        paths = [str(HERE.parent), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        self._process = subprocess.Popen(
            [str(python), str(HERE / "worker.py"), adapter],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
        )

    def load(self, options: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """`load_s` counts from the start of the import of its libraries."""
        request = {"do": "load", "options": options, "threads": self._threads}
        return self._ask(request, timeout_s)

    def run(self, rows: Sequence[Any], batch: int, timeout_s: float) -> dict[str, Any]:
        """Captions of `rows`; see `worker.run_job`."""
        listed = [row.to_dict() for row in rows]
        return self._ask({"do": "run", "rows": listed, "batch": batch}, timeout_s)

    def tokens(self, rows: Sequence[Any], mode: str, timeout_s: float) -> list[list[int]]:
        """Token ids of each caption."""
        listed = [row.to_dict() for row in rows]
        tokens: list[list[int]] = self._ask(
            {"do": "tokens", "rows": listed, "mode": mode}, timeout_s
        )["tokens"]
        return tokens

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
        except OSError as error:
            raise WorkerError("it has died; see its log") from error
        line = self._read_line(stdout, time.monotonic() + timeout_s)
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def _read_line(self, stdout: Any, deadline: float) -> bytes:
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not selector.select(left_s):
                    self._process.kill()
                    raise WorkerError("it took too long")
                chunk = os.read(stdout.fileno(), 1 << 16)
                if not chunk:
                    raise WorkerError(f"it ended with status {self._process.wait()}")
                line += chunk
        return line

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        stdin = self._process.stdin
        try:
            if stdin is not None and not stdin.closed:
                stdin.write(b'{"do": "exit"}\n')
                stdin.close()
            self._process.wait(timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()
