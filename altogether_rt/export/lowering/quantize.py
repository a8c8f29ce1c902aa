"""Symmetric int8 with one scale a row of the weight matrix (an output channel, a token)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["QuantizedRows", "SplitColumns", "quantize_rows", "quantize_splitting"]

INT8_MAX = 127

#: A column whose largest value is so many times the typical one is split, into parts that are no
#: larger than that; fewer, if more than this share of all columns would be added.
_WIDE = 3.0
_MOST_ADDED = 1 / 16


class QuantizedRows(NamedTuple):
    """values[i] * scales[i] is close to row i."""

    values: NDArray[np.int8]  # (rows, columns)
    scales: NDArray[np.float32]  # (rows,), positive


def quantize_rows(matrix: NDArray[np.float32]) -> QuantizedRows:
    """Quantise a (rows, columns) matrix; a row of zeros gets scale 1 and stays zero."""
    scales = _scales(np.abs(matrix).max(axis=1))
    values = np.rint(matrix / scales[:, None]).clip(-INT8_MAX, INT8_MAX).astype(np.int8)
    return QuantizedRows(values, scales)


class SplitColumns(NamedTuple):
    """Quantised rows with columns appended: adding `values[:, columns:]` to the columns `repeated`
    gives, times the scales, what is close to the matrix.
    """

    values: NDArray[np.int8]  # (rows, columns + added)
    scales: NDArray[np.float32]  # (rows,), positive
    repeated: NDArray[np.int64]  # (added,) columns of which another part is appended


def quantize_splitting(matrix: NDArray[np.float32]) -> SplitColumns:
    """Quantise a (rows, columns) matrix whose large columns are sums of several int8 columns.

    A column far larger than the others, such as smoothing makes of the weights that read an outlier
    of the activations, would take all of every row's int8 range (splitting outlier channels: Zhao
    et al. 2019, arXiv 1901.09504; the parts here add up exactly).
    """
    largest = np.abs(matrix).max(axis=0)
    parts = _num_parts(largest)
    scales = _scales((np.abs(matrix) / parts).max(axis=1))
    bound = INT8_MAX * parts
    sums = np.rint(matrix / scales[:, None]).clip(-bound, bound).astype(np.int64)
    added = []
    repeated = np.flatnonzero(parts > 1)
    for column in repeated.tolist():
        number = int(parts[column])
        split = np.diff(sums[:, column, None] * np.arange(number + 1) // number)
        sums[:, column] = split[:, 0]
        added.append(split[:, 1:])
    values = np.concatenate([sums, *added], axis=1).astype(np.int8)
    return SplitColumns(values, scales, np.repeat(repeated, parts[repeated] - 1))


def _scales(largest: NDArray[np.floating]) -> NDArray[np.float32]:
    """By the largest value of each row."""
    return np.where(largest > 0, largest / INT8_MAX, 1).astype(np.float32)


def _num_parts(largest: NDArray[np.float32]) -> NDArray[np.int64]:
    """Into how many parts each column is split, by the largest value in it."""
    typical = float(np.median(largest[largest > 0])) if (largest > 0).any() else 1.0
    wide, part = largest > _WIDE * typical, _WIDE
    while True:
        parts = np.where(wide, np.ceil(largest / (part * typical)), 1).astype(np.int64)
        if (parts - 1).sum() <= _MOST_ADDED * len(largest):
            return parts
        part *= 1.25
