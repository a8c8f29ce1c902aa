"""BLEU over a set of captions. Papineni et al., ACL 2002."""

from __future__ import annotations

import math
from collections.abc import Sequence

from altogether_rt.metrics.tokenize import check_pairs, ngrams, tokenize

__all__ = ["bleu"]


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]], max_n: int = 4) -> float:
    """BLEU-`max_n` of the whole set, 0 to 1, without smoothing.

    Geometric mean of the n-gram precisions (each n-gram counted at most as often as in the
    reference that has it most often), times the brevity penalty against the references closest in
    length. Raises AltogetherError if the lengths differ.
    """
    check_pairs(candidates, references)
    matches, totals = [0] * max_n, [0] * max_n
    length = reference_length = 0
    for candidate, captions in zip(candidates, references, strict=True):
        words = tokenize(candidate)
        targets = [tokenize(caption) for caption in captions]
        length += len(words)
        lengths = (len(target) for target in targets)
        reference_length += min(lengths, key=lambda n: (abs(n - len(words)), n))
        for n in range(1, max_n + 1):
            counts = ngrams(words, n)
            limits = ngrams([], n)
            for target in targets:
                limits |= ngrams(target, n)
            matches[n - 1] += (counts & limits).total()
            totals[n - 1] += counts.total()
    if min(matches) == 0:
        return 0.0
    precision = math.exp(sum(math.log(m / t) for m, t in zip(matches, totals, strict=True)) / max_n)
    return precision * min(1.0, math.exp(1 - reference_length / length))
