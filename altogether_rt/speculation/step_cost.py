"""How long a decoder step takes, by what it brings."""

from __future__ import annotations

import numpy as np

__all__ = ["StepCost"]

#: Relative cost of a step, of each row in it and of each token, before anything is measured:
#: OPT-1.3B in int8 on two AVX512 cores.
_DEFAULT_COST = (25.0, 1.3, 4.6)

#: Indices of the upper triangle of a symmetric 3 × 3 matrix.
_UPPER = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))

#: How fast the estimate for steps that are begun ahead follows the last ones.
_AHEAD_RATE = 0.1


class StepCost:
    """Seconds of a decoder step: a constant, plus a cost for each row and for each token.

    Fitted to recent measurements by least squares, regularized towards the proportions of a default
    (plain decoding has as many tokens as rows, so that their costs cannot be told apart).
    """

    _MEMORY = 0.98
    _PRIOR_WEIGHT = 0.003
    _MAX_OUTLIER = 3.0
    #: Measurements between two fits, after the first few: a fit takes as long as a small step.
    _FIT_EVERY = 16

    def __init__(self) -> None:
        self._products = [0.0] * len(_UPPER)  # of the three terms with each other
        self._targets = [0.0] * 3  # of the terms with the measured seconds
        self._num_records = 0
        self._measured = self._predicted = 0.0  # in seconds, and in the units of the default
        self._fitted: tuple[float, float, float] | None = _DEFAULT_COST
        self._ahead = 1.0  # seconds of a step that is begun ahead, as a fraction of `step_s`

    def record(self, rows: int, tokens: int, seconds: float) -> None:
        """Record a step without prompts. Outliers, steps delayed by something else, are clipped."""
        if seconds <= 0:
            return
        if self._measured:
            seconds = min(seconds, self._MAX_OUTLIER * self.step_s(rows, tokens))
        constant, row, token = _DEFAULT_COST
        parts = (constant, row * rows, token * tokens)
        expected = sum(parts)
        # Weighted by relative error, so that large steps do not outweigh small ones.
        weight, memory = 1 / expected**2, self._MEMORY
        # Plain Python: calling NumPy takes longer than computing so few numbers.
        self._products = [
            memory * product + weight * parts[i] * parts[j]
            for product, (i, j) in zip(self._products, _UPPER, strict=True)
        ]
        self._targets = [
            memory * target + weight * seconds * part
            for target, part in zip(self._targets, parts, strict=True)
        ]
        self._measured = memory * self._measured + seconds / expected
        self._predicted = memory * self._predicted + 1
        self._num_records += 1
        if self._num_records <= self._FIT_EVERY or self._num_records % self._FIT_EVERY == 0:
            self._fitted = None

    def step_s(self, rows: int, tokens: int) -> float:
        """Expected seconds of a step that is waited for.

        In arbitrary units before the first measurement.
        """
        constant, row, token = self._coefficients()
        return constant + row * rows + token * tokens

    def record_ahead(self, rows: int, seconds: float) -> None:
        """Record a step without prompts and drafts that was begun before the last one's tokens were
        read, as steps with drafts cannot be: their tokens follow from those.
        """
        if seconds > 0 and self._measured:
            fraction = min(seconds / self.step_s(rows, rows), 1.0)
            self._ahead += _AHEAD_RATE * (fraction - self._ahead)

    def plain_s(self, rows: int) -> float:
        """Expected seconds of a step without drafts, begun ahead where such steps were recorded.

        A row alone brings drafts to every step, so that none is begun ahead.
        """
        return self.step_s(rows, rows) * (self._ahead if rows > 1 else 1.0)

    @property
    def token_s(self) -> float:
        """Expected seconds that one more token adds."""
        return self._coefficients()[2]

    def _coefficients(self) -> tuple[float, float, float]:
        if self._fitted is None:
            scale = self._measured / self._predicted
            weight = self._PRIOR_WEIGHT * self._predicted
            products = weight * np.eye(3)
            for product, (i, j) in zip(self._products, _UPPER, strict=True):
                products[i, j] += product
                products[j, i] = products[i, j]
            solution = np.linalg.solve(products, np.array(self._targets) + weight * scale)
            factors = np.maximum(solution, 0.02 * scale)
            constant, row, token = (factors * _DEFAULT_COST).tolist()
            self._fitted = constant, row, token
        return self._fitted
