"""Krippendorff's alpha: how far annotators agree beyond chance.

Krippendorff: Content Analysis, 3rd edition, 2013, chapter 12.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

__all__ = ["krippendorff_alpha"]


def krippendorff_alpha(units: Iterable[Sequence[Hashable | None]]) -> float | None:
    """Alpha for nominal answers: 1 full agreement, 0 what chance gives, below 0 worse than that.

    `units` holds for each thing that was judged the answers it got, None for one that is missing;
    the units may have different numbers of answers. None where alpha is undefined: no unit has two
    answers, or all answers are the same.
    """
    totals: Counter[Hashable] = Counter()  # answers that can be paired with another
    agreeing = 0.0  # pairs of equal answers within a unit, each unit weighing its answers
    for answers in units:
        counts = Counter(answer for answer in answers if answer is not None)
        num = counts.total()
        if num < 2:
            continue  # nothing to agree with
        totals.update(counts)
        agreeing += sum(count * (count - 1) for count in counts.values()) / (num - 1)
    if len(totals) < 2:
        return None
    num_answers = totals.total()
    expected = sum(count * (count - 1) for count in totals.values()) / (num_answers - 1)
    return 1 - (num_answers - agreeing) / (num_answers - expected)
