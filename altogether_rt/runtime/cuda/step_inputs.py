"""The decoder's inputs for a range of a step's rows, padded to a bucket's sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from altogether_rt.artifacts.manifest import TensorSpec
from altogether_rt.runtime.base import StepBatch
from altogether_rt.runtime.cuda.memory_plan import input_layout
from altogether_rt.runtime.cuda.step_sizes import PlannedCall, StepSizes
from altogether_rt.runtime.packing import pack_indices

__all__ = ["logit_rows", "padded_inputs", "write_inputs"]


def padded_inputs(
    batch: StepBatch, call: PlannedCall, held: NDArray[np.int32]
) -> dict[str, NDArray[Any]]:
    """All inputs except the cache, by name, for the rows of `batch` that `call` covers.

    Visual tokens come without padding, which is to be zero: they are large, and copied once.

    held: (slots,) tokens in each slot; a padding row writes after the tokens that its slot holds.
    """
    first, last, bucket = call.first, call.last, call.bucket
    start, end = _packed_range(batch, call)
    query_lengths, past_lengths = batch.query_lengths[first:last], batch.past_lengths[first:last]
    packing = pack_indices(query_lengths, past_lengths, min_chunk=bucket.chunk)
    padded_rows = np.ones(bucket.rows, np.int32)
    pasts = np.zeros(bucket.rows, np.int32)
    behind = held[last : first + bucket.rows]
    pasts[last - first : last - first + len(behind)] = behind
    pasts[: last - first] = past_lengths
    padded_rows[: last - first] = query_lengths

    # If visual tokens are padded, the last packed token is padding too.
    visual = np.asarray(batch.visual_tokens)
    visual_index = np.full(bucket.visual, bucket.tokens - 1, np.int64)
    here = (batch.visual_index >= start) & (batch.visual_index < end)
    if not here.all():  # copying tens of megabytes takes as long as computing some of a step
        visual = visual[here]
    visual_index[: len(visual)] = batch.visual_index[here] - start

    pad_index = np.zeros((bucket.rows, bucket.chunk), np.int64)
    pad_index[: last - first] = packing.pad_index
    wanted = batch.logit_index[logit_rows(batch, call)] - start
    return {
        "token_ids": _padded(batch.token_ids[start:end], bucket.tokens),
        "positions": _padded(packing.positions, bucket.tokens),
        "visual_tokens": visual,
        "visual_index": visual_index,
        "query_lengths": padded_rows,
        "past_lengths": pasts,
        "pad_index": pad_index,
        "unpad_index": _padded(packing.unpad_index, bucket.tokens),
        "logit_index": _padded(wanted, bucket.wanted),
    }


def write_inputs(
    block: NDArray[np.uint8],
    specs: Sequence[TensorSpec],
    bucket: StepSizes,
    arrays: Mapping[str, NDArray[Any]],
) -> None:
    """Lay out inputs in `block` as `input_layout` has them; what an array lacks becomes zero."""
    layout = input_layout(specs, bucket)
    for spec in specs:
        region, array = layout[spec.name], arrays[spec.name]
        data = np.ascontiguousarray(array, spec.dtype).view(np.uint8).reshape(-1)
        block[region.offset : region.offset + len(data)] = data
        block[region.offset + len(data) : region.offset + region.nbytes] = 0


def logit_rows(batch: StepBatch, call: PlannedCall) -> NDArray[np.intp]:
    """Indices into `batch.logit_index` that belong to the rows of `call`."""
    if (call.first, call.last) == (0, len(batch.query_lengths)):
        return np.arange(len(batch.logit_index))
    start, end = _packed_range(batch, call)
    return np.flatnonzero((batch.logit_index >= start) & (batch.logit_index < end))


def _packed_range(batch: StepBatch, call: PlannedCall) -> tuple[int, int]:
    start = int(batch.query_lengths[: call.first].sum())
    return start, start + int(batch.query_lengths[call.first : call.last].sum())


def _padded(values: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    padded = np.zeros(size, np.int64)
    padded[: len(values)] = values
    return padded
