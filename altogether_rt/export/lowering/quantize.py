"""Symmetric int8 quantisation with a scale per row of a matrix (an output channel, a token)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["QuantizedRows", "SplitColumns", "quantize_rows", "quantize_splitting"]

INT8_MAX = 127

#: A column whose largest value exceeds this multiple of the median column's is split into parts no
#: larger than that multiple.
_WIDE = 3.0
#: Upper bound of the added columns, as a fraction of all columns; larger parts keep it.
_MAX_ADDED = 1 / 16


class QuantizedRows(NamedTuple):
    """values[i] * scales[i] approximates row i."""

    values: NDArray[np.int8]  # (rows, columns)
    scales: NDArray[np.float32]  # (rows,), positive


def quantize_rows(matrix: NDArray[np.float32]) -> QuantizedRows:
    """Quantise a (rows, columns) matrix; a row of zeros gets the scale 1 and stays zero."""
    scales = _scales(np.abs(matrix).max(axis=1))
    values = np.rint(matrix / scales[:, None]).clip(-INT8_MAX, INT8_MAX).astype(np.int8)
    return QuantizedRows(values, scales)


class SplitColumns(NamedTuple):
    """Quantised rows with columns appended.

    The matrix is approximated by adding `values[:, columns:]` to the columns `repeated` and then
    multiplying by the scales.
    """

    values: NDArray[np.int8]  # (rows, columns + added)
    scales: NDArray[np.float32]  # (rows,), positive
    repeated: NDArray[np.int64]  # (added,) the column that each appended part belongs to


def quantize_splitting(matrix: NDArray[np.float32]) -> SplitColumns:
    """Quantise a (rows, columns) matrix, splitting large columns into sums of int8 columns.

    A column far larger than the others would use up the int8 range of every row. Smoothing creates
    such columns, in weights that read an outlier of the activations. (Splitting outlier channels:
    Zhao et al. 2019, arXiv 1901.09504; here the parts add up exactly.)
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
    """Scales, given the largest absolute value of each row."""
    return np.where(largest > 0, largest / INT8_MAX, 1).astype(np.float32)


def _num_parts(largest: NDArray[np.float32]) -> NDArray[np.int64]:
    """The number of parts of each column, given its largest absolute value."""
    typical = float(np.median(largest[largest > 0])) if (largest > 0).any() else 1.0
    wide, part = largest > _WIDE * typical, _WIDE
    while True:
        parts = np.where(wide, np.ceil(largest / (part * typical)), 1).astype(np.int64)
        if (parts - 1).sum() <= _MAX_ADDED * len(largest):
            return parts
        part *= 1.25
