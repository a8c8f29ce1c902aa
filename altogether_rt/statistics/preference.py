"""Which of two is preferred: win rate, sign test, and whether one side of the screen is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from altogether_rt.statistics.bootstrap import (
    DEFAULT_LEVEL,
    DEFAULT_RESAMPLES,
    Interval,
    percentile_interval,
)

__all__ = ["SideBias", "Tally", "side_bias", "sign_test", "wilson_interval"]


@dataclass(frozen=True)
class Tally:
    """How often the first of two won, neither did, and the second won."""

    wins: int = 0
    ties: int = 0
    losses: int = 0

    @classmethod
    def of(cls, outcomes: Iterable[float]) -> Tally:
        """Counts outcomes: 1 a win, 0.5 a tie, 0 a loss. Raises ValueError for another number."""
        counts = {1.0: 0, 0.5: 0, 0.0: 0}
        for outcome in outcomes:
            if outcome not in counts:
                raise ValueError(f"an outcome is 1, 0.5 or 0, not {outcome!r}.")
            counts[outcome] += 1
        return cls(counts[1.0], counts[0.5], counts[0.0])

    @property
    def total(self) -> int:
        return self.wins + self.ties + self.losses

    @property
    def swapped(self) -> Tally:
        """The same seen from the second."""
        return Tally(self.losses, self.ties, self.wins)

    @property
    def win_rate(self) -> float:
        """(wins + ½ ties) / total; NaN of nothing."""
        return (self.wins + self.ties / 2) / self.total if self.total else float("nan")

    def sign_test(self) -> float:
        """p-value of the two-sided exact sign test; ties say nothing and are left out."""
        return sign_test(self.wins, self.losses)

    def interval(
        self,
        *,
        level: float = DEFAULT_LEVEL,
        num_resamples: int = DEFAULT_RESAMPLES,
        seed: int = 0,
    ) -> Interval:
        """Bootstrap interval of the win rate over pairs, one answer a pair.

        The interval of `swapped` is this one mirrored at one half. Where a pair was answered
        several times, take `mean_interval` of the pairs' mean outcomes instead.
        """
        if not self.total:
            return Interval(float("nan"), float("nan"))
        if self.wins < self.losses:  # the same draws for both views, so that they are mirrored
            low, high = self.swapped.interval(level=level, num_resamples=num_resamples, seed=seed)
            return Interval(1 - high, 1 - low)
        shares = np.array([self.wins, self.ties, self.losses]) / self.total
        counts = np.random.default_rng(seed).multinomial(self.total, shares, size=num_resamples)
        rates = (counts[:, 0] + counts[:, 1] / 2) / self.total
        if self.wins == self.losses:
            rates = np.concatenate([rates, 1 - rates])
        return percentile_interval(rates, level)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p-value of the exact sign test: how often a fair coin is at least as one-sided.

    1.0 if both are 0.
    """
    num = wins + losses
    ways = tail = 1  # ways to draw k of num, and their sum up to the smaller count
    for k in range(1, min(wins, losses) + 1):
        ways = ways * (num - k + 1) // k
        tail += ways
    return min(1.0, 2 * tail / (1 << num))


def wilson_interval(successes: float, total: int, level: float = DEFAULT_LEVEL) -> Interval:
    """Wilson's score interval of a share; (nan, nan) of nothing. Wilson, 1927.

    Holds its level where the bootstrap does not: few answers, or a share close to 0 or 1. Ties
    counted as half a success make it a little wide.
    """
    if not total:
        return Interval(float("nan"), float("nan"))
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / total
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # An end that is 0 or 1 must not be a rounding error away from it.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return Interval(low, 1.0 if successes == total else min(1.0, centre + half))


@dataclass(frozen=True)
class SideBias:
    """How far the left side was preferred, whatever stood there."""

    tally: Tally  # wins are choices of the left side
    interval: Interval  # Wilson's, of the share of left among the choices that were no tie
    p_value: float  # of the sign test

    @property
    def left_share(self) -> float:
        """Of the choices that were no tie; one half without a bias, NaN of nothing."""
        chosen = self.tally.wins + self.tally.losses
        return self.tally.wins / chosen if chosen else float("nan")


def side_bias(left: int, right: int, ties: int = 0, level: float = DEFAULT_LEVEL) -> SideBias:
    """The bias towards a side, of answers whose sides were drawn at random."""
    tally = Tally(left, ties, right)
    return SideBias(tally, wilson_interval(left, left + right, level), tally.sign_test())
