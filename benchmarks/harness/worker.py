"""One contestant in a process and an environment of its own: JSON lines in, JSON lines out.

    python -P -m harness.worker MODULE:CLASS        (started by protocol.py)

Requests: {"do": "load", "options": {…}, "threads": 2}, {"do": "check"},
{"do": "run", "rows": […], "batch": 8, "budget_s": 0, "stages": false},
{"do": "tokens", "rows": […], "mode": "…"}, {"do": "exit"}. Each is answered by one line, with
"error" if it failed, or "unavailable" if the contestant cannot take part on this machine. What
libraries print goes to stderr, so that the lines stay clean.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
import traceback
from typing import Any

from harness.adapter import Adapter, Unavailable
from harness.rows import Row
from harness.timing import measure_job, peak_memory_bytes

__all__ = ["main", "serve"]


def serve(name: str, requests: Any, replies: Any) -> None:
    """Answer requests until `exit` or the end of the input."""
    adapter: Adapter | None = None
    for line in requests:
        request = json.loads(line)
        if request["do"] == "exit":
            break
        try:
            if request["do"] == "load":
                adapter, reply = _load(name, request)
            elif adapter is None:
                raise RuntimeError("nothing is loaded")
            else:
                reply = _answer(adapter, request)
        except (Unavailable, ModuleNotFoundError) as reason:
            reply = {"unavailable": str(reason)}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        if "error" in reply:
            _free_device_memory()
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
    if adapter is not None:
        adapter.close()


def _load(name: str, request: dict[str, Any]) -> tuple[Adapter, dict[str, Any]]:
    """`load_s` counts from the start of the import of the contestant's libraries."""
    start = time.perf_counter()
    module, _, attribute = name.partition(":")
    adapter: Adapter = getattr(importlib.import_module(module), attribute)()
    adapter.prepare(request["options"])
    figures = adapter.load(request["options"], request["threads"]) or {}
    seconds = time.perf_counter() - start
    return adapter, {"load_s": seconds, "peak_bytes": peak_memory_bytes(), **figures}


def _answer(adapter: Adapter, request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "check":
        return adapter.check()
    rows = [Row.from_dict(row) for row in request["rows"]]
    if request["do"] == "tokens":
        return {"tokens": adapter.tokens(rows, request["mode"])}
    job = measure_job(adapter, rows, request["batch"], request["budget_s"])
    return job | {"stages": adapter.stages(rows[: request["batch"]])} if request["stages"] else job


def _free_device_memory() -> None:
    """What a job that ran out of memory held must not be missing in a smaller one."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.argv[1], sys.stdin, replies)


if __name__ == "__main__":
    main()
