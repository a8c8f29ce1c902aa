"""Bootstrap intervals against the theory, and their pairing."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest

from altogether_rt.statistics import (
    Interval,
    bootstrap_interval,
    mean_interval,
    paired_mean_interval,
    percentile_interval,
    resampled_totals,
)

pytestmark = pytest.mark.lean


def test_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    """For many values the percentile interval is mean ± 1.96 standard errors."""
    values = np.random.default_rng(0).exponential(size=2000)
    error = values.std() / math.sqrt(len(values))
    interval = mean_interval(values, num_resamples=8000)
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.08 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.08 * error)


def test_interval_holds_the_truth_as_often_as_it_says() -> None:
    """95 % of 300 samples, give or take three standard deviations of 1.26 %."""
    rng = np.random.default_rng(5)
    samples = rng.normal(3.0, 2.0, size=(300, 80))
    hits = sum(3.0 in mean_interval(sample, num_resamples=400) for sample in samples)
    assert 0.95 - 0.038 <= hits / 300 <= 0.95 + 0.038


def test_totals_are_of_whole_units_drawn_with_replacement() -> None:
    """Columns stay together: each resample has 3 units, and the second column is 10 times that."""
    totals = resampled_totals([[1, 10], [1, 10], [1, 10]], num_resamples=50)
    assert totals.tolist() == [[3, 30]] * 50
    totals = resampled_totals([[0], [1]], num_resamples=4000)
    shares = [(totals == n).mean() for n in (0, 1, 2)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


@pytest.mark.parametrize("max_draws", [150, 20])
def test_blocks_of_resamples_do_not_change_them(
    monkeypatch: pytest.MonkeyPatch, max_draws: int
) -> None:
    """Three resamples at a time and one at the end; one at a time, of more units than the bound."""
    values = np.random.default_rng(1).normal(size=(50, 2))
    whole = resampled_totals(values, num_resamples=31)
    monkeypatch.setattr("altogether_rt.statistics.bootstrap._MAX_DRAWS", max_draws)
    assert np.allclose(resampled_totals(values, num_resamples=31), whole)


def test_memory_is_that_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """2000 resamples of 1000 units are 16 MB of draws; in blocks of 10,000 draws, 80 kB each."""
    monkeypatch.setattr("altogether_rt.statistics.bootstrap._MAX_DRAWS", 10_000)
    values = np.ones((1000, 1))
    tracemalloc.start()
    try:
        resampled_totals(values, num_resamples=2000)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_level_resamples_and_seed_are_those_that_were_given() -> None:
    """A mean's interval is that of the percentiles of its resampled means, whoever computes it."""
    values = np.random.default_rng(6).normal(size=40)
    given: dict[str, Any] = {"level": 0.8, "num_resamples": 300, "seed": 5}
    means = resampled_totals(values[:, None], num_resamples=300, seed=5)[:, 0] / 40
    expected = tuple(np.quantile(means, [0.1, 0.9]))
    assert mean_interval(values, **given) == pytest.approx(expected)
    assert paired_mean_interval(values + 1, np.ones(40), **given) == pytest.approx(expected)
    assert bootstrap_interval(values[:, None] / 40, lambda t: t[:, 0], **given) == pytest.approx(
        expected
    )


def test_interval_of_a_ratio_of_totals() -> None:
    rows = np.array([[1, 2], [3, 6], [5, 10]])  # the ratio is one half in every resample
    assert bootstrap_interval(rows, lambda t: t[:, 0] / t[:, 1]) == (0.5, 0.5)


def test_paired_differences_forget_what_the_systems_share() -> None:
    """Images differ by 10, systems by 0.5 everywhere: only pairing sees it."""
    hard = np.random.default_rng(2).normal(0, 10, size=200)
    assert paired_mean_interval(hard + 0.5, hard) == pytest.approx((0.5, 0.5))
    first, second = mean_interval(hard + 0.5), mean_interval(hard)
    assert first.low < second.high  # unpaired, they overlap
    with pytest.raises(ValueError):
        paired_mean_interval([1.0, 2.0], [1.0])


def test_seed_decides() -> None:
    values = np.random.default_rng(3).normal(size=100)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)


def test_percentiles_by_hand() -> None:
    """0 … 100: the middle 95 % is from 2.5 to 97.5. NaN does not count."""
    assert percentile_interval([*range(101), math.nan]) == pytest.approx((2.5, 97.5))
    assert percentile_interval(range(101), level=0.5) == pytest.approx((25, 75))
    assert all(math.isnan(end) for end in percentile_interval([math.nan]))
    assert 1.0 in Interval(1.0, 2.0) and 2.0 in Interval(1.0, 2.0)
    assert 0.9 not in Interval(1.0, 2.0) and 2.1 not in Interval(1.0, 2.0)


def test_no_units_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one unit"):
        mean_interval([])
    with pytest.raises(ValueError, match=r"not \(3,\)"):
        resampled_totals([1.0, 2.0, 3.0])
