"""Percentile bootstrap intervals of figures that are functions of totals over images.

A mean, a ratio and corpus BLEU are all functions of sums of one row an image. A resample draws as
many images as there are, with replacement, and sums their rows. The same seed draws the same
images, which is what makes a comparison of two systems on the same images a paired one.

Efron, Tibshirani: An Introduction to the Bootstrap, 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "DEFAULT_LEVEL",
    "DEFAULT_RESAMPLES",
    "Interval",
    "bootstrap_interval",
    "mean_interval",
    "paired_mean_interval",
    "percentile_interval",
    "resampled_totals",
]

DEFAULT_LEVEL: Final = 0.95
DEFAULT_RESAMPLES: Final = 2000

#: Draws held in memory at once: 8 bytes each.
_MAX_DRAWS: Final = 4_000_000


class Interval(NamedTuple):
    """Both ends belong to it."""

    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, (int, float)) and self.low <= value <= self.high


def resampled_totals(
    rows: ArrayLike, *, num_resamples: int = DEFAULT_RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Column totals of each resample: (num_units, k) -> (num_resamples, k).

    The same `seed` and number of units draw the same units. Raises ValueError without units.
    """
    values = np.asarray(rows, np.float64)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"rows must be (num_units, k) with at least one unit, not {values.shape}.")
    num_units = len(values)
    rng = np.random.default_rng(seed)
    at_once = max(1, _MAX_DRAWS // num_units)
    totals = np.empty((num_resamples, values.shape[1]))
    for start in range(0, num_resamples, at_once):
        num = min(at_once, num_resamples - start)
        drawn = rng.integers(num_units, size=(num, num_units))
        drawn += np.arange(num)[:, None] * num_units  # a range of bins for each resample
        counts = np.bincount(drawn.ravel(), minlength=num * num_units).reshape(num, num_units)
        totals[start : start + num] = counts @ values
    return totals


def percentile_interval(samples: ArrayLike, level: float = DEFAULT_LEVEL) -> Interval:
    """The middle `level` of the samples. Those that are NaN (0 / 0 in a resample) do not count.

    (nan, nan) if all are.
    """
    values = np.asarray(samples, np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(float("nan"), float("nan"))
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def bootstrap_interval(
    rows: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], ArrayLike],
    *,
    level: float = DEFAULT_LEVEL,
    num_resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Interval of a figure computed from totals over units.

    `rows` is (num_units, k); `statistic` maps totals (num_resamples, k) to figures
    (num_resamples,). For the difference of two systems, put the rows of both side by side.
    """
    totals = resampled_totals(rows, num_resamples=num_resamples, seed=seed)
    return percentile_interval(statistic(totals), level)


def mean_interval(
    values: Sequence[float] | NDArray[np.float64],
    *,
    level: float = DEFAULT_LEVEL,
    num_resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Interval of the mean of one value a unit."""
    column = np.asarray(values, np.float64)[:, None]
    return bootstrap_interval(
        column,
        lambda totals: totals[:, 0] / len(column),
        level=level,
        num_resamples=num_resamples,
        seed=seed,
    )


def paired_mean_interval(
    first: Sequence[float] | NDArray[np.float64],
    second: Sequence[float] | NDArray[np.float64],
    *,
    level: float = DEFAULT_LEVEL,
    num_resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Interval of mean(first) - mean(second), both measured on the same units in the same order.

    Raises ValueError if the lengths differ.
    """
    difference = np.subtract(np.asarray(first, np.float64), np.asarray(second, np.float64))
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values cannot be paired with {len(second)}.")
    return mean_interval(difference, level=level, num_resamples=num_resamples, seed=seed)
