"""One contestant in a process and an environment of its own: JSON lines in, JSON lines out.

    python worker.py ADAPTER        (started by run.py)

Requests: {"do": "load", "options": {…}, "threads": 2}, {"do": "run", "rows": […], "batch": 8},
{"do": "tokens", "rows": […], "mode": "…"}, {"do": "exit"}. Each is answered by one line, with
"error" if it failed. What libraries print goes to stderr, so that the lines stay clean.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Adapter", "main", "run_job", "serve"]


class Adapter(Protocol):
    """What a contestant's module offers as `load(options, threads)`."""

    encode_s: float  # seconds in encoder and mapper so far

    def caption(self, rows: Sequence[Any], batch: int) -> list[list[int]]:
        """Token ids of each row's caption, `caption_tokens` of them at least."""

    def tokens(self, rows: Sequence[Any], mode: str) -> list[list[int]]:
        """The same for another kind of prompt: `visual`, `attended_left` or `stand_in`."""


def run_job(adapter: Adapter, rows: Sequence[Any], batch: int) -> dict[str, Any]:
    """Writes the captions of `rows`, `batch` at once; how long it took and what it held.

    At batch 1 each row is timed by itself.
    """
    reset_peak_memory()
    if (begin := getattr(adapter, "begin", None)) is not None:
        begin()
    encode_s = adapter.encode_s
    groups = [[row] for row in rows] if batch == 1 else [list(rows)]
    times_s, written = [], 0
    for group in groups:
        start = time.perf_counter()
        captions = adapter.caption(group, batch)
        times_s.append(time.perf_counter() - start)
        for row, ids in zip(group, captions, strict=True):
            if len(ids) < row.caption_tokens:
                raise RuntimeError(f"a caption has {len(ids)} tokens, not {row.caption_tokens}")
            written += row.caption_tokens
    return {
        "images": len(rows),
        "batch": batch,
        "seconds": sum(times_s),
        "encode_s": adapter.encode_s - encode_s,
        "latencies_s": times_s if batch == 1 else [],
        "caption_tokens": written,
        "peak_bytes": peak_memory_bytes(),
        **getattr(adapter, "notes", dict)(),
    }


def reset_peak_memory() -> None:
    """Linux only; elsewhere the peak is that of the whole process so far."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """Resident memory at most: Linux's VmHWM, without the processes that were there before."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _load(name: str, request: dict[str, Any]) -> tuple[Adapter, dict[str, Any]]:
    start = time.perf_counter()
    module = importlib.import_module(name)
    adapter = module.load(request["options"], request["threads"])
    seconds = time.perf_counter() - start
    return adapter, {"load_s": seconds, "peak_bytes": peak_memory_bytes()}


def serve(name: str, requests: Any, replies: Any) -> None:
    """Answers requests until `exit` or the end of the input."""
    from traffic import Row

    adapter: Adapter | None = None
    for line in requests:
        request = json.loads(line)
        if request["do"] == "exit":
            return
        try:
            if request["do"] == "load":
                adapter, reply = _load(name, request)
            elif adapter is None:
                raise RuntimeError("nothing is loaded")
            else:
                rows = [Row.from_dict(row) for row in request["rows"]]
                if request["do"] == "run":
                    reply = run_job(adapter, rows, request["batch"])
                else:
                    reply = {"tokens": adapter.tokens(rows, request["mode"])}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.argv[1], sys.stdin, replies)


if __name__ == "__main__":
    main()
