"""ROUGE-L: the longest common subsequence with the references. Lin, 2004."""

from __future__ import annotations

from collections.abc import Sequence

from altogether_rt.metrics.ngrams import check_pairs
from altogether_rt.metrics.ptb import tokenize

__all__ = ["rouge_l", "rouge_l_each"]

BETA = 1.2  # weight of recall over precision, as in the COCO caption evaluation


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean ROUGE-L over the captions, 0 to 1. Raises AltogetherError if the lengths differ."""
    scores = rouge_l_each(candidates, references)
    return sum(scores) / len(scores)


def rouge_l_each(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """ROUGE-L of each caption.

    F = (1 + β²) P R / (R + β² P), with the best precision and the best recall over the caption's
    references. Raises AltogetherError if the lengths differ.
    """
    check_pairs(candidates, references)
    scores = []
    for candidate, captions in zip(candidates, references, strict=True):
        words = tokenize(candidate)
        targets = [tokenize(caption) for caption in captions]
        common = [_common_length(words, target) for target in targets]
        if not max(common):
            scores.append(0.0)
            continue
        precision = max(common) / len(words)
        recall = max(c / len(t) for c, t in zip(common, targets, strict=True) if t)
        scores.append((1 + BETA**2) * precision * recall / (recall + BETA**2 * precision))
    return scores


def _common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, in time len(first) · len(second)."""
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for column, other in enumerate(second, 1):
            above = row[column]
            row[column] = diagonal + 1 if word == other else max(above, row[column - 1])
            diagonal = above
    return row[-1]
