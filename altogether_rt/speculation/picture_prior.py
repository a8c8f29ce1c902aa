"""Which tokens go with an image: learnt from the embeddings of earlier images and their captions.

The text alone rarely says what comes after "a large"; the image does. For each token this keeps the
mean embedding of the images whose captions contained it. An image close to that mean makes the
token likelier than it is on average. This is a linear discriminant with a diagonal covariance. It
steers draft tokens, which the decoder verifies, and never a caption.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PicturePrior"]

#: Images to learn from before any token is weighted.
_MIN_IMAGES = 8

#: In a file, means of fewer images are left out.
_MIN_IMAGES_SAVED = 30

#: A mean over n images counts n / (n + this): that of a single image says little.
_SHRINKAGE = 1.0

#: A diagonal covariance makes log-likelihoods overconfident, because dimensions are correlated.
#: They are multiplied by this over the square root of the number of dimensions.
_TEMPERATURE = 2.0

#: Floor of a dimension's variance; below it, the embeddings do not differ in that dimension.
_MIN_VARIANCE = 1e-9

#: Weights between exp(-this) and exp(this) are left out as uninformative.
_MIN_LOG_WEIGHT = 0.1

#: Weights are clipped to exp(± this).
_MAX_LOG_WEIGHT = 12.0


class PicturePrior:
    """Mean embedding of the images whose captions contain a token, for up to `max_tokens` tokens.

    E below is the length of an embedding, K the number of tokens known.
    """

    def __init__(self, max_tokens: int = 4096) -> None:
        self._max_tokens = max_tokens
        self._rows: dict[int, int] = {}  # token -> row in the arrays below
        self._tokens = np.zeros(0, np.int64)
        self._counts = np.zeros(0, np.float32)
        self._sums = np.zeros((0, 0), np.float32)
        self._norms = np.zeros(0, np.float32)  # squared, of the means as `weights` compares them
        self._sum = np.zeros(0)  # of all embeddings
        self._squares = np.zeros(0)  # sum of their squares
        self._num_images = 0

    def learn(self, embedding: NDArray[np.float32] | None, tokens: Iterable[int]) -> None:
        """Record that the caption of an image with this embedding, (E,), contains `tokens`."""
        if embedding is None:
            return
        if not self._num_images:
            self._sums = np.zeros((0, len(embedding)), np.float32)
            self._sum, self._squares = np.zeros(len(embedding)), np.zeros(len(embedding))
        self._num_images += 1
        self._sum += embedding
        self._squares += np.square(embedding, dtype=np.float64)
        rows = [row for token in set(tokens) if (row := self._row_of(token)) is not None]
        self._counts[rows] += 1
        self._sums[rows] += embedding
        # Norms of other tokens stay as they were until the token is written again. They are then
        # slightly out of date, which is close enough for drafting.
        self._norms[rows] = self._norms_of(rows)

    def weights(self, embedding: NDArray[np.float32] | None) -> Mapping[int, float]:
        """By token, the factor by which an image with this embedding, (E,), makes it likelier.

        Tokens without an informative factor are left out.
        """
        if embedding is None or self._num_images < _MIN_IMAGES:
            return {}
        known = len(self._rows)
        counts = self._counts[:known]
        mean, precision = self._moments()
        direction = (embedding - mean) * precision
        products = self._sums[:known] @ direction - counts * (mean @ direction)
        logs = products / (counts + _SHRINKAGE) - 0.5 * self._norms[:known]
        logs *= _TEMPERATURE / math.sqrt(len(embedding))
        informative = np.flatnonzero(np.abs(logs) > _MIN_LOG_WEIGHT)
        factors = np.exp(np.clip(logs[informative], -_MAX_LOG_WEIGHT, _MAX_LOG_WEIGHT))
        return dict(zip(self._tokens[informative].tolist(), factors.tolist(), strict=True))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What was learnt, as arrays.

        For tokens with enough images, `tokens` and `counts`, (K,), and `means`, (K, E), of the
        images' embeddings; `moments`, (2, E), mean and mean square of all embeddings; `num`, the
        number of images.
        """
        known = np.flatnonzero(self._counts >= _MIN_IMAGES_SAVED)
        counts = self._counts[known]
        moments = np.stack([self._sum, self._squares]) / max(self._num_images, 1)
        return {
            "tokens": self._tokens[known].astype(np.int32),
            "counts": counts,
            "means": (self._sums[known] / counts[:, None]).astype(np.float16),
            "moments": moments.astype(np.float32),
            "num": np.array(self._num_images, np.int64),
        }

    def load_arrays(
        self,
        tokens: NDArray[np.int64],
        counts: NDArray[np.float32],
        means: NDArray[np.float32],
        moments: NDArray[np.float32],
        num: int,
    ) -> None:
        """Fill a new prior with what `to_arrays` returned."""
        if not num:
            return
        self._num_images = num
        self._sum, self._squares = moments.astype(np.float64) * num
        self._rows = {token: row for row, token in enumerate(tokens.tolist())}
        self._tokens, self._counts, self._sums = tokens, counts, means * counts[:, None]
        self._norms = self._norms_of(slice(None))

    def _norms_of(self, rows: list[int] | slice) -> NDArray[np.float32]:
        mean, precision = self._moments()
        counts = self._counts[rows, None]
        means = (self._sums[rows] - counts * mean) / (counts + _SHRINKAGE)
        norms: NDArray[np.float32] = np.square(means) @ precision
        return norms

    def _moments(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and inverse variance of all embeddings seen, (E,) each."""
        mean = self._sum / self._num_images
        variance = self._squares / self._num_images - mean**2
        precision = 1 / np.maximum(variance, _MIN_VARIANCE)
        return mean.astype(np.float32), precision.astype(np.float32)

    def _row_of(self, token: int) -> int | None:
        """Row of the token in the arrays, a new one if needed; None if there is no room for it."""
        row = self._rows.get(token)
        if row is None and len(self._rows) < self._max_tokens:
            row = self._rows[token] = len(self._rows)
            if row == len(self._counts):
                num_added = max(256, row)
                self._tokens = np.append(self._tokens, np.zeros(num_added, np.int64))
                self._counts = np.append(self._counts, np.zeros(num_added, np.float32))
                self._norms = np.append(self._norms, np.zeros(num_added, np.float32))
                added = np.zeros((num_added, self._sums.shape[1]), np.float32)
                self._sums = np.concatenate([self._sums, added])
            self._tokens[row] = token
        return row
