"""Symmetric int8 with one scale a row of the weight matrix (an output channel, a token)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["QuantizedRows", "quantize_rows"]

INT8_MAX = 127


class QuantizedRows(NamedTuple):
    """values[i] * scales[i] is close to row i."""

    values: NDArray[np.int8]  # (rows, columns)
    scales: NDArray[np.float32]  # (rows,), positive


def quantize_rows(matrix: NDArray[np.float32]) -> QuantizedRows:
    """Quantise a (rows, columns) matrix; a row of zeros gets scale 1 and stays zero."""
    largest = np.abs(matrix).max(axis=1)
    scales = np.where(largest > 0, largest / INT8_MAX, 1).astype(np.float32)
    values = np.rint(matrix / scales[:, None]).clip(-INT8_MAX, INT8_MAX).astype(np.int8)
    return QuantizedRows(values, scales)
