"""Three or more systems on one scale: Bradley–Terry strengths from their comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from altogether_rt.statistics import (
    Interval,
    bradley_terry,
    percentile_interval,
    resampled_totals,
    win_probabilities,
)

__all__ = ["Rank", "rank_systems"]

#: Ties added between every two systems, so that one that never lost has a finite strength.
_PRIOR: Final = 1.0

#: Fewer than for other intervals: each resample is a fit of its own.
_NUM_RESAMPLES: Final = 500


@dataclass(frozen=True)
class Rank:
    """One system's strength for one question; strengths have the geometric mean 1."""

    system: int
    strength: float
    interval: Interval  # bootstrap over images
    win_rate: float  # expected, mean over the other systems


def rank_systems(
    outcomes: Mapping[tuple[int, int], Mapping[str, float]], num_systems: int
) -> list[Rank]:
    """The systems, strongest first, from one question's outcomes by pair and image."""
    names = sorted({name for images in outcomes.values() for name in images})
    rows = np.zeros((len(names), num_systems, num_systems))
    index = {name: i for i, name in enumerate(names)}
    for (first, second), images in outcomes.items():
        for name, value in images.items():
            rows[index[name], first, second] += value
            rows[index[name], second, first] += 1 - value
    strengths = bradley_terry(rows.sum(axis=0), prior=_PRIOR)
    totals = resampled_totals(rows.reshape(len(names), -1), num_resamples=_NUM_RESAMPLES)
    resampled = np.array([_fit(total, num_systems) for total in totals])
    rates = (win_probabilities(strengths).sum(axis=1) - 0.5) / (num_systems - 1)
    ranks = [
        Rank(
            system,
            float(strengths[system]),
            percentile_interval(resampled[:, system]),
            float(rates[system]),
        )
        for system in range(num_systems)
    ]
    return sorted(ranks, key=lambda rank: -rank.strength)


def _fit(total: NDArray[np.float64], num_systems: int) -> NDArray[np.float64]:
    return bradley_terry(total.reshape(num_systems, num_systems), prior=_PRIOR, tolerance=1e-6)
