"""Statistics of evaluations: bootstrap intervals, preferences, agreement. NumPy only."""

from altogether_rt.statistics.agreement import krippendorff_alpha
from altogether_rt.statistics.bootstrap import (
    DEFAULT_LEVEL,
    DEFAULT_RESAMPLES,
    Interval,
    bootstrap_interval,
    mean_interval,
    paired_mean_interval,
    percentile_interval,
    resampled_totals,
)
from altogether_rt.statistics.preference import (
    SideBias,
    Tally,
    side_bias,
    sign_test,
    wilson_interval,
)
from altogether_rt.statistics.strengths import bradley_terry, win_probabilities

__all__ = [
    "DEFAULT_LEVEL",
    "DEFAULT_RESAMPLES",
    "Interval",
    "SideBias",
    "Tally",
    "bootstrap_interval",
    "bradley_terry",
    "krippendorff_alpha",
    "mean_interval",
    "paired_mean_interval",
    "percentile_interval",
    "resampled_totals",
    "side_bias",
    "sign_test",
    "wilson_interval",
    "win_probabilities",
]
