"""Times repeated runs of an action, and measures the memory of the process."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Timing", "measure", "peak_memory_bytes", "percentile"]


@dataclass(frozen=True)
class Timing:
    """Durations of repeated runs of one action, in seconds."""

    times_s: tuple[float, ...]

    @property
    def p50_s(self) -> float:
        return percentile(self.times_s, 50)

    @property
    def p95_s(self) -> float:
        return percentile(self.times_s, 95)

    @property
    def p99_s(self) -> float:
        return percentile(self.times_s, 99)


def percentile(values: Sequence[float], percent: float) -> float:
    """The given percentile of the values, with linear interpolation."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def measure(
    action: Callable[[], object],
    *,
    budget_s: float,
    min_repeats: int = 3,
    max_repeats: int = 1000,
    before: Callable[[], object] = lambda: None,
) -> Timing:
    """Time `action`, after one warm-up run, until `budget_s` is spent.

    It runs at least `min_repeats` and, within the budget, at most `max_repeats` times. before: is
    called before each run and not timed.
    """
    before()
    action()
    times: list[float] = []
    spent_s = 0.0
    while len(times) < min_repeats or (spent_s < budget_s and len(times) < max_repeats):
        before()
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
        spent_s += times[-1]
    return Timing(tuple(times))


def peak_memory_bytes() -> int:
    """Peak memory of this process so far (resident set)."""
    try:
        # Not ru_maxrss, which on Linux starts at the size of the parent when it forked.
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
