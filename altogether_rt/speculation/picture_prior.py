"""Which tokens go with a picture: from the pictures of captions that held them.

A text alone rarely says what comes after "a large"; the picture does. Each token has the mean
embedding of the pictures whose captions held it, and a picture close to that mean makes the token
likelier than it is elsewhere. This is a linear discriminant with a diagonal covariance; it steers
guesses, which the decoder verifies, and never a caption.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TokenPictures"]

#: Pictures seen before any token is weighed.
_MIN_PICTURES = 8

#: In a file, the mean of fewer pictures is left out.
_MIN_PICTURES_KEPT = 30

#: A mean over n pictures counts n / (n + this): that of a single one says little.
_SHRINKAGE = 1.0

#: Log-likelihoods of a diagonal covariance are too sure, as dimensions go together: they are
#: multiplied by this over the square root of their number.
_TEMPERATURE = 2.0

#: Of a dimension: below it, the embeddings do not differ there.
_MIN_VARIANCE = 1e-9

#: Weights nearer to 1 than exp(± this) are left out.
_MIN_LOG_WEIGHT = 0.1

#: No weight is beyond exp(± this).
_MAX_LOG_WEIGHT = 12.0


class TokenPictures:
    """Mean embeddings of the pictures that tokens were written for, of `max_tokens` at most."""

    def __init__(self, max_tokens: int = 4096) -> None:
        self._max_tokens = max_tokens
        self._places: dict[int, int] = {}  # of a token, in the arrays below
        self._tokens = np.zeros(0, np.int64)
        self._counts = np.zeros(0, np.float32)
        self._sums = np.zeros((0, 0), np.float32)
        self._norms = np.zeros(0, np.float32)  # squared, of the means as `weights` compares them
        self._sum = np.zeros(0)  # of all embeddings, and of their squares
        self._squares = np.zeros(0)
        self._num_pictures = 0

    def learn(self, embedding: NDArray[np.float32] | None, tokens: Iterable[int]) -> None:
        """The caption of a picture with this embedding, (E,), holds `tokens`."""
        if embedding is None:
            return
        if not self._num_pictures:
            self._sums = np.zeros((0, len(embedding)), np.float32)
            self._sum, self._squares = np.zeros(len(embedding)), np.zeros(len(embedding))
        self._num_pictures += 1
        self._sum += embedding
        self._squares += np.square(embedding, dtype=np.float64)
        places = [place for token in set(tokens) if (place := self._place(token)) is not None]
        self._counts[places] += 1
        self._sums[places] += embedding
        # Those of the other tokens age until they are written again: near enough for guesses.
        self._norms[places] = self._norms_of(places)

    def weights(self, embedding: NDArray[np.float32] | None) -> Mapping[int, float]:
        """How much likelier a picture with this embedding makes a token, where that is known."""
        if embedding is None or self._num_pictures < _MIN_PICTURES:
            return {}
        known = len(self._places)
        counts = self._counts[:known]
        mean, precision = self._moments()
        direction = (embedding - mean) * precision
        products = self._sums[:known] @ direction - counts * (mean @ direction)
        logs = products / (counts + _SHRINKAGE) - 0.5 * self._norms[:known]
        logs *= _TEMPERATURE / math.sqrt(len(embedding))
        telling = np.flatnonzero(np.abs(logs) > _MIN_LOG_WEIGHT)
        likelier = np.exp(np.clip(logs[telling], -_MAX_LOG_WEIGHT, _MAX_LOG_WEIGHT))
        return dict(zip(self._tokens[telling].tolist(), likelier.tolist(), strict=True))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """`tokens` and `counts` (K,), `means` (K, E) of their pictures, where there are enough; of
        all embeddings `moments` (2, E), their mean and that of their squares; and `num` pictures.
        """
        known = np.flatnonzero(self._counts >= _MIN_PICTURES_KEPT)
        counts = self._counts[known]
        moments = np.stack([self._sum, self._squares]) / max(self._num_pictures, 1)
        return {
            "tokens": self._tokens[known].astype(np.int32),
            "counts": counts,
            "means": (self._sums[known] / counts[:, None]).astype(np.float16),
            "moments": moments.astype(np.float32),
            "num": np.array(self._num_pictures, np.int64),
        }

    def from_arrays(
        self,
        tokens: NDArray[np.int64],
        counts: NDArray[np.float32],
        means: NDArray[np.float32],
        moments: NDArray[np.float32],
        num: int,
    ) -> None:
        """Know what `to_arrays` gave, and nothing else."""
        if not num:
            return
        self._num_pictures = num
        self._sum, self._squares = moments.astype(np.float64) * num
        self._places = {token: place for place, token in enumerate(tokens.tolist())}
        self._tokens, self._counts, self._sums = tokens, counts, means * counts[:, None]
        self._norms = self._norms_of(slice(None))

    def _norms_of(self, places: list[int] | slice) -> NDArray[np.float32]:
        mean, precision = self._moments()
        counts = self._counts[places, None]
        means = (self._sums[places] - counts * mean) / (counts + _SHRINKAGE)
        norms: NDArray[np.float32] = np.square(means) @ precision
        return norms

    def _moments(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and inverse variance of the embeddings seen, (E,) each."""
        mean = self._sum / self._num_pictures
        variance = self._squares / self._num_pictures - mean**2
        precision = 1 / np.maximum(variance, _MIN_VARIANCE)
        return mean.astype(np.float32), precision.astype(np.float32)

    def _place(self, token: int) -> int | None:
        """Where the token is kept; None if there is no room for one more."""
        place = self._places.get(token)
        if place is None and len(self._places) < self._max_tokens:
            place = self._places[token] = len(self._places)
            if place == len(self._counts):
                room = max(256, place)
                self._tokens = np.append(self._tokens, np.zeros(room, np.int64))
                self._counts = np.append(self._counts, np.zeros(room, np.float32))
                self._norms = np.append(self._norms, np.zeros(room, np.float32))
                more = np.zeros((room, self._sums.shape[1]), np.float32)
                self._sums = np.concatenate([self._sums, more])
            self._tokens[place] = token
        return place
