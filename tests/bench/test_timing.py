"""Percentiles and repeats."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from altogether_rt.bench.timing import Timing, measure, percentile

pytestmark = pytest.mark.lean


@pytest.mark.parametrize("percent", [0, 37, 50, 95, 99, 100])
@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_percentile_is_numpys(percent: float, count: int) -> None:
    values = np.random.default_rng(count).random(count).tolist()
    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent))


def test_timing_orders_its_percentiles() -> None:
    result = Timing((3.0, 1.0, 2.0))
    assert [result.p50_s, result.p95_s, result.p99_s] == pytest.approx([2.0, 2.9, 2.98])


def test_measure_repeats_until_enough_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    calls: list[int] = []
    assert measure(lambda: calls.append(1), budget_s=0, min_repeats=3).times_s == (1.0,) * 3
    assert len(calls) == 4  # one to warm up
    assert len(measure(lambda: None, budget_s=5.5).times_s) == 6
    assert len(measure(lambda: None, budget_s=100, max_repeats=4).times_s) == 4


def test_peak_memory_sees_what_was_held() -> None:
    code = (
        "from altogether_rt.bench.timing import peak_memory_bytes as peak\n"
        "before = peak(); held = b'x' * (64 << 20); print(before, peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, growth = map(int, done.stdout.split())
    assert 4e6 < before < 1e9
    assert (60 << 20) < growth < (80 << 20)


def test_what_comes_before_is_done_each_time_and_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def slow() -> None:
        nonlocal now
        calls.append("before")
        now += 20

    def run() -> None:
        nonlocal now
        calls.append("run")
        now += 1

    timing = measure(run, budget_s=0.0, min_repeats=4, before=slow)
    assert calls == ["before", "run"] * 5
    assert timing.times_s == (1.0,) * 4
