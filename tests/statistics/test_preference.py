"""Win rates, the sign test and side bias, against values worked out by hand or by SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from altogether_rt.statistics import Tally, side_bias, sign_test, wilson_interval

pytestmark = pytest.mark.lean


def test_tally() -> None:
    tally = Tally.of([1, 1, 0.5, 0, 1])
    assert tally == Tally(wins=3, ties=1, losses=1)
    assert tally.win_rate == (3 + 0.5) / 5
    assert tally.swapped == Tally(1, 1, 3)
    assert math.isnan(Tally().win_rate)
    assert math.isnan(Tally().interval().low)
    with pytest.raises(ValueError, match=r"not 0\.7"):
        Tally.of([0.7])


def test_sign_test_by_hand() -> None:
    # 8 of 10: (1 + 10 + 45) / 1024 in each tail.
    assert sign_test(8, 2) == sign_test(2, 8) == 2 * 56 / 1024
    assert sign_test(5, 0) == 2 / 32
    assert sign_test(0, 0) == sign_test(1, 0) == sign_test(3, 3) == 1.0
    assert Tally(8, 100, 2).sign_test() == sign_test(8, 2)


def test_sign_test_of_many() -> None:
    """What scipy.stats.binomtest (1.17.1) gives; a float could not hold the binomials."""
    assert sign_test(5100, 4900) == pytest.approx(0.04658552770494645, rel=1e-9)


def test_wilson_interval() -> None:
    """The four examples of Newcombe, Statistics in Medicine 17, 1998, table I."""
    for (successes, total), expected in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0000, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        assert wilson_interval(successes, total) == pytest.approx(expected, abs=5e-5)
    assert wilson_interval(20, 20) == pytest.approx((1 - 0.1611, 1.0), abs=5e-5)
    # The formula itself rounds to a little more than 0, and to a little less than 1.
    assert wilson_interval(0, 6).low == 0 and wilson_interval(13, 13).high == 1
    assert math.isnan(wilson_interval(0, 0).low)


def test_win_rate_interval_is_that_of_the_normal_distribution() -> None:
    tally = Tally(wins=500, ties=200, losses=300)
    variance = (500 * 0.4**2 + 200 * 0.1**2 + 300 * 0.6**2) / 1000  # about the win rate of 0.6
    half = 1.96 * math.sqrt(variance / 1000)
    interval = tally.interval(num_resamples=10_000)
    assert interval == pytest.approx((0.6 - half, 0.6 + half), abs=0.002)


def test_level_resamples_and_seed_are_those_that_were_given() -> None:
    """The rates of resamples drawn here, and for the other view their mirror image."""
    draws = np.random.default_rng(5).multinomial(1000, [0.5, 0.3, 0.2], size=300)
    rates = (draws[:, 0] + draws[:, 1] / 2) / 1000
    low, high = np.quantile(rates, [0.1, 0.9])
    found = Tally(500, 300, 200).interval(level=0.8, num_resamples=300, seed=5)
    assert found == pytest.approx((low, high))
    found = Tally(200, 300, 500).interval(level=0.8, num_resamples=300, seed=5)
    assert found == pytest.approx((1 - high, 1 - low))
    assert wilson_interval(15, 148, 0.8) == pytest.approx(side_bias(15, 133, level=0.8).interval)
    assert side_bias(15, 133).tally == Tally(15, 0, 133)


@pytest.mark.parametrize(
    "tally", [Tally(30, 10, 12), Tally(7, 0, 7), Tally(70, 30, 70), Tally(0, 5, 3)]
)
def test_exchanging_the_systems_mirrors_the_interval(tally: Tally) -> None:
    low, high = tally.interval(seed=4)
    assert tally.swapped.interval(seed=4) == pytest.approx((1 - high, 1 - low), abs=1e-15)


def test_win_rate_interval_holds_the_truth() -> None:
    """Annotators with known shares .45/.15/.40, 300 studies of 200 pairs: 95 % ± 3 · 1.26 %."""
    rng = np.random.default_rng(8)
    studies = rng.multinomial(200, [0.45, 0.15, 0.40], size=300)
    hits = sum(0.525 in Tally(*map(int, n)).interval(num_resamples=500) for n in studies)
    assert 0.912 <= hits / 300 <= 0.988


def test_side_bias() -> None:
    fair, biased = side_bias(52, 48, ties=30), side_bias(80, 20)
    assert 0.5 in fair.interval and fair.p_value > 0.5 and fair.left_share == 0.52
    assert 0.5 not in biased.interval and biased.p_value < 1e-8
    assert math.isnan(side_bias(0, 0, ties=5).left_share)
