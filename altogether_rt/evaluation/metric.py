"""A metric of an evaluation: its value, its interval, and its difference to another system's.

Every metric is a function of totals over images, so that a bootstrap can resample the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from altogether_rt.statistics import (
    DEFAULT_LEVEL,
    DEFAULT_RESAMPLES,
    Interval,
    percentile_interval,
    resampled_totals,
)

__all__ = [
    "Bootstrap",
    "Difference",
    "Estimate",
    "Metric",
    "Unavailable",
    "differences",
    "estimates",
    "mean_metric",
    "percent_metric",
]

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
        """The metric of all images, with its interval."""
        return estimates([self], bootstrap)[0]

    @property
    def value(self) -> float:
        """The metric of all images; NaN if undefined."""
        return float(self.statistic(self.rows.sum(axis=0, keepdims=True))[0])

    @property
    def contributing(self) -> NDArray[np.bool_]:
        """Which images contribute: a ratio of names does not depend on captions without names."""
        if self.each is None:
            return np.ones(len(self.images), np.bool_)
        return ~np.isnan(self.each)

    def of(self, images: Sequence[str]) -> Metric:
        """The metric of `images` alone, which must be some of its images, in that order."""
        row_of = {image: row for row, image in enumerate(self.images)}
        order = [row_of[image] for image in images]
        each = None if self.each is None else self.each[order]
        return replace(self, images=tuple(images), rows=self.rows[order], each=each)

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


@dataclass(frozen=True)
class Difference:
    """A metric of two systems on the images that both have captioned."""

    metric: Metric
    ours: Estimate
    theirs: Estimate
    difference: Estimate  # ours - theirs, paired by image


def estimates(metrics: Sequence[Metric], bootstrap: Bootstrap) -> list[Estimate]:
    """The value and interval of each metric."""
    samples = _resample(metrics, bootstrap)
    return [
        _estimate(metric, each, bootstrap) for metric, each in zip(metrics, samples, strict=True)
    ]


def differences(pairs: Iterable[tuple[Metric, Metric]], bootstrap: Bootstrap) -> list[Difference]:
    """The paired difference of each two metrics, without those that have no image in common."""
    aligned: list[tuple[Metric, Metric]] = []
    for ours, theirs in pairs:
        known = set(theirs.images)
        if shared := [image for image in ours.images if image in known]:
            aligned.append((ours.of(shared), theirs.of(shared)))
    samples = iter(_resample([metric for pair in aligned for metric in pair], bootstrap))
    found = []
    for ours, theirs in aligned:
        our_samples, their_samples = next(samples), next(samples)
        difference = Estimate(
            ours.value - theirs.value,
            percentile_interval(our_samples - their_samples, bootstrap.level),
            int((ours.contributing | theirs.contributing).sum()),
        )
        found.append(
            Difference(
                ours,
                _estimate(ours, our_samples, bootstrap),
                _estimate(theirs, their_samples, bootstrap),
                difference,
            )
        )
    return found


def _estimate(metric: Metric, samples: NDArray[np.float64], bootstrap: Bootstrap) -> Estimate:
    interval = percentile_interval(samples, bootstrap.level)
    return Estimate(metric.value, interval, int(metric.contributing.sum()))


def _resample(metrics: Sequence[Metric], bootstrap: Bootstrap) -> list[NDArray[np.float64]]:
    """The value of each metric in every resample, (num_resamples,) each.

    Metrics of the same images are computed from the same draws, which are made once.
    """
    samples = [np.full(bootstrap.num_resamples, np.nan) for _ in metrics]
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, metric in enumerate(metrics):
        groups.setdefault(metric.images, []).append(index)
    for images, indices in groups.items():
        if not images:
            continue
        rows = np.hstack([metrics[index].rows for index in indices])
        totals = resampled_totals(rows, num_resamples=bootstrap.num_resamples, seed=bootstrap.seed)
        ends = np.cumsum([metrics[index].rows.shape[1] for index in indices])
        for index, part in zip(indices, np.split(totals, ends[:-1], axis=1), strict=True):
            samples[index] = metrics[index].statistic(part)
    return samples


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
