"""The one measurement that all contestants have: seconds, encoder's share and memory of a job."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from harness.adapter import Adapter
from harness.rows import Row

__all__ = ["measure_job", "peak_memory_bytes"]

#: Timed passes of a job that is repeated, at least.
MIN_PASSES = 2


def measure_job(
    adapter: Adapter, rows: Sequence[Row], batch: int, budget_s: float = 0.0
) -> dict[str, Any]:
    """Write the captions of `rows`, `batch` at once; how long it took and how much memory it held.

    budget_s: with 0 a single pass is timed. Otherwise one pass warms up, then passes are timed
    until the budget is spent, at least MIN_PASSES, and `seconds` is their median. At batch 1 each
    row is timed by itself. Raises RuntimeError for a caption that is too short.
    """
    if budget_s:
        _write(adapter, rows, batch)
    _reset_peak_memory()
    adapter.begin()
    encode_s = adapter.encode_s
    passes = [_write(adapter, rows, batch)]
    while budget_s and (len(passes) < MIN_PASSES or sum(map(sum, passes)) < budget_s):
        passes.append(_write(adapter, rows, batch))
    return {
        "images": len(rows),
        "batch": batch,
        "seconds": median(map(sum, passes)),
        "passes": len(passes),
        "encode_s": (adapter.encode_s - encode_s) / len(passes),
        "latencies_s": [seconds for times in passes for seconds in times] if batch == 1 else [],
        "caption_tokens": sum(row.caption_tokens for row in rows),
        "peak_bytes": peak_memory_bytes(),
        **adapter.notes(),
    }


def _write(adapter: Adapter, rows: Sequence[Row], batch: int) -> list[float]:
    """One pass over `rows`: seconds of each call."""
    groups = [[row] for row in rows] if batch == 1 else [list(rows)]
    times_s = []
    for group in groups:
        start = time.perf_counter()
        captions = adapter.run(group, batch)
        times_s.append(time.perf_counter() - start)
        for row, ids in zip(group, captions, strict=True):
            if len(ids) < row.caption_tokens:
                raise RuntimeError(f"a caption has {len(ids)} tokens, not {row.caption_tokens}")
    return times_s


def _reset_peak_memory() -> None:
    """Linux only; elsewhere the peak is that of the whole process so far."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """Peak resident memory of this process alone (Linux's VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
