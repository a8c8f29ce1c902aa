"""CIDEr-D: agreement with several references, weighted by how telling each word is.

Vedantam, Zitnick, Parikh: CIDEr: Consensus-based Image Description Evaluation, CVPR 2015.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from altogether_rt.errors import AltogetherError
from altogether_rt.metrics.ngrams import check_pairs, ngrams
from altogether_rt.metrics.ptb import split_words, tokenize

__all__ = ["CiderScores", "DocumentFrequencies", "cider_d"]

MAX_N = 4  # n-grams of 1 to 4 words
SIGMA = 6.0  # width of the penalty for a length that differs, in words
SCALE = 10.0  # CIDEr-D is published on a scale of 0 to 10

NGram = tuple[str, ...]


@dataclass(frozen=True)
class DocumentFrequencies:
    """In the references of how many images each n-gram occurs."""

    counts: Counter[NGram]
    num_images: int

    @classmethod
    def from_references(cls, references: Iterable[Sequence[str]]) -> DocumentFrequencies:
        """Count over images, each with its reference captions.

        Raises AltogetherError for fewer than two images: every n-gram would then weigh nothing.
        """
        counts: Counter[NGram] = Counter()
        num_images = 0
        for captions in references:
            words = [split_words(tokenize(caption)) for caption in captions]
            counts.update({g for w in words for n in range(1, MAX_N + 1) for g in ngrams(w, n)})
            num_images += 1
        if num_images < 2:
            raise AltogetherError("CIDEr needs document frequencies from at least two images.")
        return cls(counts, num_images)

    def weight(self, ngram: NGram) -> float:
        """Inverse document frequency log(N / df); an n-gram never seen counts as seen once."""
        return math.log(self.num_images) - math.log(max(1, self.counts[ngram]))


@dataclass(frozen=True)
class CiderScores:
    """CIDEr-D of a set of captions, 0 (nothing shared) to 10 (the one reference itself)."""

    mean: float
    each: list[float]


@dataclass(frozen=True)
class _Vector:
    weights: list[dict[NGram, float]]  # tf-idf, one dictionary for each n
    norms: list[float]
    length: int  # number of bigrams: what the published implementation takes as length


def cider_d(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    frequencies: DocumentFrequencies | None = None,
) -> CiderScores:
    """CIDEr-D of one caption an image against that image's references.

    `frequencies` come from `references` unless given; they decide the scale of the result, so
    compare only scores with the same ones. Raises AltogetherError if the lengths differ.
    """
    check_pairs(candidates, references)
    frequencies = frequencies or DocumentFrequencies.from_references(references)
    each = []
    for candidate, captions in zip(candidates, references, strict=True):
        vector = _vector(candidate, frequencies)
        scores = [_similarity(vector, _vector(caption, frequencies)) for caption in captions]
        each.append(SCALE * sum(scores) / len(scores))
    return CiderScores(sum(each) / len(each), each)


def _vector(caption: str, frequencies: DocumentFrequencies) -> _Vector:
    words = split_words(tokenize(caption))
    weights = [
        {ngram: count * frequencies.weight(ngram) for ngram, count in ngrams(words, n).items()}
        for n in range(1, MAX_N + 1)
    ]
    norms = [math.sqrt(sum(value * value for value in part.values())) for part in weights]
    return _Vector(weights, norms, max(0, len(words) - 1))


def _similarity(candidate: _Vector, reference: _Vector) -> float:
    """Mean over n of the clipped cosine, times exp(-(length difference)² / 2σ²).

    Clipping at the reference's count keeps a repeated word from counting twice.
    """
    total = 0.0
    for ours, theirs, norm, their_norm in zip(
        candidate.weights, reference.weights, candidate.norms, reference.norms, strict=True
    ):
        if norm > 0 and their_norm > 0:
            shared = sum(min(w, theirs[g]) * theirs[g] for g, w in ours.items() if g in theirs)
            total += shared / (norm * their_norm)
    difference = candidate.length - reference.length
    return total / MAX_N * math.exp(-(difference**2) / (2 * SIGMA**2))
