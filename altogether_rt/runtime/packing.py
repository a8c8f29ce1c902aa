"""Index arithmetic between the packed tokens of a step and the padded view that attention needs.

Linear layers run on packed tokens, (T, width), so padding is never multiplied. Attention needs
(rows, longest row): two gathers inside the graph convert between them, by the indices made here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Packing", "pack_indices"]


@dataclass(frozen=True)
class Packing:
    """The indices that convert between packed tokens and the padded view of B rows, S columns."""

    positions: NDArray[np.int64]  # (T,) position of each packed token in its slot
    pad_index: NDArray[
        np.int64
    ]  # (B, S) index of the packed token shown there; padding repeats one
    unpad_index: NDArray[np.int64]  # (T,) flat index of each packed token in the padded view


def pack_indices(
    query_lengths: NDArray[np.int32], past_lengths: NDArray[np.int32], min_chunk: int = 1
) -> Packing:
    """The indices of one step; S is the length of the longest row, at least `min_chunk`."""
    rows = len(query_lengths)
    if rows == 1:  # the smallest step: skip the arithmetic, which would show in its time
        index = np.arange(int(query_lengths[0]), dtype=np.int64)
        if len(index) >= min_chunk:
            return Packing(index + past_lengths[0], index.reshape(1, -1), index)
    tokens = int(query_lengths.sum())
    longest = max(int(query_lengths.max()), min_chunk)
    if longest * rows == tokens:  # no padding, as in most steps
        index = np.arange(tokens, dtype=np.int64)
        pad_index = index.reshape(rows, longest)
        positions = (pad_index - pad_index[:, :1] + past_lengths[:, None]).reshape(-1)
        return Packing(positions, pad_index, index)
    starts = np.cumsum(query_lengths, dtype=np.int64) - query_lengths  # (B,)
    column = np.arange(longest, dtype=np.int64)
    # Padding on the right repeats the row's last token; an idle row shows a neighbour's.
    shown = np.minimum(column, np.maximum(query_lengths.astype(np.int64) - 1, 0)[:, None])
    pad_index = np.minimum(starts[:, None] + shown, tokens - 1)  # (B, S)
    row_of_token = np.repeat(np.arange(rows, dtype=np.int64), query_lengths)
    in_row = np.arange(tokens, dtype=np.int64) - starts[row_of_token]  # (T,)
    return Packing(
        positions=in_row + past_lengths.astype(np.int64)[row_of_token],
        pad_index=pad_index,
        unpad_index=row_of_token * longest + in_row,
    )
