"""A metric of an evaluation: its value, its interval, and its difference to another system's.

Every metric is a function of totals over images, so that a bootstrap can resample the images.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from altogether_rt.statistics import (
    DEFAULT_LEVEL,
    DEFAULT_RESAMPLES,
    Interval,
    bootstrap_interval,
)

__all__ = ["Bootstrap", "Estimate", "Metric", "Unavailable", "mean_metric", "percent_metric"]

Unit = Literal["score", "points", "percent", "words"]
Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_DIGITS = {"score": 4, "points": 2, "percent": 1, "words": 1}


@dataclass(frozen=True)
class Bootstrap:
    """Parameters of the bootstrap. The same seed draws the same images for every metric."""

    level: float = DEFAULT_LEVEL
    num_resamples: int = DEFAULT_RESAMPLES
    seed: int = 0


@dataclass(frozen=True)
class Estimate:
    """A value with its interval: of a metric, or of the difference of two systems."""

    value: float
    interval: Interval
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON: None for NaN."""
        ends = (self.value, *self.interval)
        value, low, high = (None if np.isnan(end) else float(end) for end in ends)
        return {"value": value, "low": low, "high": high, "images": self.num_images}


@dataclass(frozen=True)
class Unavailable:
    """A metric that was not computed, and why."""

    key: str
    label: str
    reason: str  # a clause: "needs Java, which is not installed"


@dataclass(frozen=True)
class Metric:
    """Counts of each image, and the function that computes the metric from their totals."""

    key: str
    label: str
    definition: str
    unit: Unit
    images: tuple[str, ...]
    rows: NDArray[np.float64]  # (num_images, k)
    statistic: Statistic  # totals (num_sets, k) -> values (num_sets,)
    each: NDArray[np.float64] | None = None  # (num_images,): value of one image; NaN if undefined
    higher_is_better: bool | None = None
    remark: str = ""  # shown beside the value: what the definition depends on in this evaluation

    def estimate(self, bootstrap: Bootstrap) -> Estimate:
        return Estimate(
            _of_sum(self.rows, self.statistic),
            _interval(self.rows, self.statistic, bootstrap),
            int(self._counts().sum()),
        )

    def _counts(self) -> NDArray[np.bool_]:
        """Which images contribute: a ratio of names does not depend on captions without names."""
        if self.each is None:
            return np.ones(len(self.images), np.bool_)
        return ~np.isnan(self.each)

    def only(self, images: Container[str]) -> Metric:
        """The metric restricted to those of its images that are in `images`."""
        kept = [index for index, image in enumerate(self.images) if image in images]
        return replace(
            self,
            images=tuple(self.images[index] for index in kept),
            rows=self.rows[kept],
            each=None if self.each is None else self.each[kept],
        )

    def difference(self, other: Metric, bootstrap: Bootstrap) -> Estimate:
        """This minus the other, paired by image. Both must have the same images."""
        row_of = {image: row for row, image in enumerate(other.images)}
        assert len(row_of) == len(self.images), "take `only` the images that both have"
        order = [row_of[image] for image in self.images]
        rows = np.hstack([self.rows, other.rows[order]])
        split = self.rows.shape[1]

        def statistic(totals: NDArray[np.float64]) -> NDArray[np.float64]:
            return self.statistic(totals[:, :split]) - other.statistic(totals[:, split:])

        value = _of_sum(rows, statistic)
        num_images = int((self._counts() | other._counts()[order]).sum())
        return Estimate(value, _interval(rows, statistic, bootstrap), num_images)

    def shown(self, value: float, *, signed: bool = False) -> str:
        """A value with its unit; "–" for NaN. signed: a difference, whose percents are points."""
        if np.isnan(value):
            return "–"
        sign = "+" if signed else ""
        percent = (" pp" if signed else " %") if self.unit == "percent" else ""
        digits = _DIGITS[self.unit]
        return f"{round(value, digits) + 0.0:{sign}.{digits}f}{percent}"  # + 0.0: never "-0.0"

    def shown_interval(self, interval: Interval, *, signed: bool = False) -> str:
        """`low … high`, each as `shown`; "–" for NaN."""
        if np.isnan(interval.low):
            return "–"
        return " … ".join(self.shown(end, signed=signed) for end in interval)


def mean_metric(
    key: str, label: str, definition: str, unit: Unit, values: dict[str, float], **options: Any
) -> Metric:
    """The mean of one value per image."""
    each = np.array(list(values.values()), np.float64)
    rows = np.stack([each, np.ones(len(each))], axis=1)
    return Metric(key, label, definition, unit, tuple(values), rows, _ratio, each, **options)


def percent_metric(
    key: str, label: str, definition: str, counts: dict[str, tuple[int, int]], **options: Any
) -> Metric:
    """A ratio in percent: (part, whole) of each image, both summed over images before dividing.

    An image whose whole is 0 adds nothing to the ratio, but is resampled and paired like others.
    """
    rows = np.array(list(counts.values()), np.float64).reshape(-1, 2)
    each = _percent(rows)
    return Metric(key, label, definition, "percent", tuple(counts), rows, _percent, each, **options)


def _ratio(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: NDArray[np.float64] = totals[:, 0] / totals[:, 1]
        return ratio


def _percent(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    return 100 * _ratio(totals)


def _of_sum(rows: NDArray[np.float64], statistic: Statistic) -> float:
    return float(statistic(rows.sum(axis=0, keepdims=True))[0])


def _interval(rows: NDArray[np.float64], statistic: Statistic, bootstrap: Bootstrap) -> Interval:
    if not len(rows):
        return Interval(float("nan"), float("nan"))
    return bootstrap_interval(
        rows,
        statistic,
        level=bootstrap.level,
        num_resamples=bootstrap.num_resamples,
        seed=bootstrap.seed,
    )
