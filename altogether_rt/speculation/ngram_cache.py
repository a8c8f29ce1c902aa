"""Which tokens followed an n-gram in earlier captions of the same captioner.

Of several followers, those that the alt-text contains and the caption still lacks are likelier,
and those that go with the image: "a large orange" continues with the alt-text's "hat", wherever
that is in it, and for an image of a boat with "boat".
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping, Set

import numpy as np
from numpy.typing import NDArray

from altogether_rt.speculation.evidence import (
    CACHE_KINDS,
    MAX_NGRAM,
    NUM_CONFIDENCES,
    Candidate,
    Ngrams,
)

__all__ = ["NO_WEIGHTS", "NgramCache"]

#: Limits for each n-gram: distinct followers, and the count of each.
_MAX_FOLLOWERS = 32
_MAX_COUNT = 1000

#: An n-gram seen this often is reliable; a rarer one may give way to its shorter suffix.
_MIN_COUNT = 4

#: In a file, followers seen once are dropped for n-grams seen at least this often.
_MIN_COUNT_TO_DROP_SINGLES = 8

#: Factor for a follower that the alt-text contains and the caption still lacks.
_MISSING_WEIGHT = 10.0

#: Weight of all tokens that have not been seen to follow.
_UNSEEN_WEIGHT = 3.0

#: Pads n-grams on the left in a file.
_NO_TOKEN = -2

#: No preference among tokens.
NO_WEIGHTS: Mapping[int, float] = {}
_NO_TOKENS: Set[int] = frozenset()


class NgramCache:
    """Counts of the tokens that followed n-grams; keeps about the `max_ngrams` newest n-grams."""

    def __init__(self, max_ngrams: int = 50_000) -> None:
        self._max_ngrams = max_ngrams
        #: n-gram -> token -> count. Ordered: finding the oldest key of a plain dict gets slower
        #: with every deletion.
        self._followers: OrderedDict[tuple[int, ...], dict[int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._followers)

    def learn(self, ngrams: Ngrams, token: int) -> None:
        """Count that `token` followed `ngrams`."""
        for ngram in ngrams:
            followers = self._followers.setdefault(ngram, {})
            followers[token] = followers.get(token, 0) + 1
            if followers[token] > _MAX_COUNT:
                halved = {other: count // 2 for other, count in followers.items() if count > 1}
                self._followers[ngram] = halved
            elif len(followers) > _MAX_FOLLOWERS:
                del followers[min(followers, key=lambda other: (followers[other], other == token))]
        while len(self._followers) > self._max_ngrams:
            self._followers.popitem(last=False)

    def to_arrays(self) -> dict[str, NDArray[np.int32]]:
        """The reliable n-grams as arrays.

        `ngrams`, (N, 3), padded with -2 on the left; `num_followers`, (N,), how many followers
        each has; `followers`, (F, 2), these followers in order: token and count.
        """
        ngrams, num_followers, rows = [], [], []
        for ngram, followers in self._followers.items():
            total = sum(followers.values())
            if total < _MIN_COUNT:
                continue
            min_count = 1 if total < _MIN_COUNT_TO_DROP_SINGLES else 2
            kept = [item for item in followers.items() if item[1] >= min_count]
            ngrams.append((*(_NO_TOKEN,) * (MAX_NGRAM - len(ngram)), *ngram))
            num_followers.append(len(kept))
            rows += kept
        return {
            "ngrams": np.array(ngrams, np.int32).reshape(-1, MAX_NGRAM),
            "num_followers": np.array(num_followers, np.int32),
            "followers": np.array(rows, np.int32).reshape(-1, 2),
        }

    def load_arrays(
        self,
        ngrams: NDArray[np.int64],
        num_followers: NDArray[np.int64],
        followers: NDArray[np.int64],
    ) -> None:
        """Replace the contents by what `to_arrays` returned."""
        rows = iter(followers.tolist())
        self._followers = OrderedDict()
        for ngram, number in zip(ngrams.tolist(), num_followers.tolist(), strict=True):
            key = tuple(token for token in ngram if token != _NO_TOKEN)
            counts = dict(itertools.islice(rows, number))
            if key and counts:
                self._followers[key] = counts

    def candidates(
        self,
        ngrams: Ngrams,
        missing: Set[int] = _NO_TOKENS,
        weights: Mapping[int, float] = NO_WEIGHTS,
    ) -> list[Candidate]:
        """The likeliest follower of the longest known n-gram among `ngrams`.

        If that n-gram was seen too rarely to be reliable, the likeliest follower of the longest
        reliable one comes second.

        missing: tokens of the alt-text that the caption lacks. weights: factor by which the image
        makes a token likelier; 1 for tokens that are not among the keys.
        """
        candidates: list[Candidate] = []
        for ngram in ngrams:
            followers = self._followers.get(ngram)
            if followers is None:
                continue
            num_seen = sum(followers.values())
            if candidates and num_seen < _MIN_COUNT:
                continue
            best_weight, total = -1.0, _UNSEEN_WEIGHT
            for token, count in followers.items():
                weight = count * weights.get(token, 1.0)
                if token in missing:
                    weight *= _MISSING_WEIGHT
                total += weight
                if weight > best_weight:
                    best_weight, best = weight, token
            confidence = int(NUM_CONFIDENCES * best_weight / total)
            kind = CACHE_KINDS + (len(ngram) - 1) * NUM_CONFIDENCES + confidence
            candidates.append((best, kind))
            if num_seen >= _MIN_COUNT:
                break
        return candidates
