"""BLEU over a set of captions. Papineni et al., ACL 2002."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from altogether_rt.metrics.ngrams import check_pairs, ngrams
from altogether_rt.metrics.ptb import split_words, tokenize

__all__ = ["bleu", "bleu_counts", "bleu_from_counts"]

MAX_N: Final = 4  # n-grams of 1 to 4 words


def bleu(
    candidates: Sequence[str], references: Sequence[Sequence[str]], max_n: int = MAX_N
) -> float:
    """BLEU-`max_n` of the whole set, 0 to 1, without smoothing.

    Geometric mean of the n-gram precisions (each n-gram counted at most as often as in the
    reference that has it most often), times the brevity penalty against the references closest in
    length. Raises AltogetherError if the lengths differ.
    """
    totals = bleu_counts(candidates, references).sum(axis=0, keepdims=True)
    return float(bleu_from_counts(totals, max_n)[0])


def bleu_counts(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> NDArray[np.float64]:
    """What BLEU counts in each caption: (num_captions, 10).

    Matches of n-grams for n = 1 … 4, n-grams for n = 1 … 4, words, words of the reference that is
    closest in length. BLEU of a set is a function of their sums. Raises AltogetherError if the
    lengths differ.
    """
    check_pairs(candidates, references)
    rows = []
    for candidate, captions in zip(candidates, references, strict=True):
        words = split_words(tokenize(candidate))
        targets = [split_words(tokenize(caption)) for caption in captions]
        matches, totals = [], []
        for n in range(1, MAX_N + 1):
            counts = ngrams(words, n)
            limits = ngrams([], n)
            for target in targets:
                limits |= ngrams(target, n)
            matches.append((counts & limits).total())
            totals.append(counts.total())
        closest = min((len(t) for t in targets), key=lambda n: (abs(n - len(words)), n))
        rows.append([*matches, *totals, len(words), closest])
    return np.array(rows, np.float64)


def bleu_from_counts(totals: NDArray[np.float64], max_n: int = MAX_N) -> NDArray[np.float64]:
    """BLEU-`max_n` of sums of `bleu_counts`: (num_sets, 10) -> (num_sets,)."""
    matches, possible = totals[:, :max_n], totals[:, MAX_N : MAX_N + max_n]
    length, reference_length = totals[:, -2], totals[:, -1]
    scores = np.zeros(len(totals))
    some = matches.min(axis=1) > 0
    precision = np.exp(np.log(matches[some] / possible[some]).mean(axis=1))
    brevity = np.exp(1 - reference_length[some] / length[some])
    scores[some] = precision * np.minimum(1.0, brevity)
    return scores
