"""Index arithmetic between the packed tokens of a step and the padded view that attention needs.

Linear layers run on packed tokens, (T, width), so no padding is ever multiplied. Attention wants
(rows, longest row); two gathers inside the graph lead there and back, with the indices made here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Packing", "pack_indices"]


@dataclass(frozen=True)
class Packing:
    """Where each packed token stands in its row, and where each padded place finds its token."""

    positions: NDArray[np.int64]  # (T,) place of each packed token in its slot
    pad_index: NDArray[np.int64]  # (B, S) packed token at each padded place; padding repeats one
    unpad_index: NDArray[np.int64]  # (T,) flat padded place of each packed token


def pack_indices(
    query_lengths: NDArray[np.int32], past_lengths: NDArray[np.int32], min_chunk: int = 1
) -> Packing:
    """The indices of one step; S is the longest row, `min_chunk` at least."""
    rows = len(query_lengths)
    if rows == 1:  # the smallest steps are the quickest, and must not wait for arithmetic
        index = np.arange(int(query_lengths[0]), dtype=np.int64)
        if len(index) >= min_chunk:
            return Packing(index + past_lengths[0], index.reshape(1, -1), index)
    tokens = int(query_lengths.sum())
    longest = max(int(query_lengths.max()), min_chunk)
    if longest * rows == tokens:  # nothing is padded: most steps
        index = np.arange(tokens, dtype=np.int64)
        pad_index = index.reshape(rows, longest)
        positions = (pad_index - pad_index[:, :1] + past_lengths[:, None]).reshape(-1)
        return Packing(positions, pad_index, index)
    starts = np.cumsum(query_lengths, dtype=np.int64) - query_lengths  # (B,)
    column = np.arange(longest, dtype=np.int64)
    # Padding on the right repeats the row's last token; an idle row borrows a neighbour's.
    place = np.minimum(column, np.maximum(query_lengths.astype(np.int64) - 1, 0)[:, None])
    pad_index = np.minimum(starts[:, None] + place, tokens - 1)  # (B, S)
    row_of_token = np.repeat(np.arange(rows, dtype=np.int64), query_lengths)
    in_row = np.arange(tokens, dtype=np.int64) - starts[row_of_token]  # (T,)
    return Packing(
        positions=in_row + past_lengths.astype(np.int64)[row_of_token],
        pad_index=pad_index,
        unpad_index=row_of_token * longest + in_row,
    )
