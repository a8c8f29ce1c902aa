"""Sizes of a decoder call: rounded up to few values, fitted to an engine's limits, split if needed.

A GPU prepares kernels, shapes and captured graphs for each combination of sizes, so calls are
padded to buckets. Padding is harmless: no row refers to padding tokens, padding rows write to
unused positions of their slots, and padding columns of a row are overwritten before they are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from altogether_rt.artifacts.engines import EngineProfile
from altogether_rt.runtime.base import StepBatch

__all__ = [
    "DecoderProfile",
    "PlannedCall",
    "StepSizes",
    "bucket_of",
    "plan_calls",
    "profile_of",
    "sizes_of",
]


@dataclass(frozen=True, order=True)
class StepSizes:
    """The sizes that vary between decoder calls."""

    rows: int  # B
    chunk: int  # S: columns of each row in the padded view
    tokens: int  # T: packed tokens
    visual: int  # V: visual tokens
    wanted: int  # L: positions whose next token is asked for

    def fits_in(self, limits: StepSizes) -> bool:
        """Whether no size is larger than its limit."""
        return all(getattr(self, f.name) <= getattr(limits, f.name) for f in fields(self))


@dataclass(frozen=True)
class DecoderProfile:
    """An optimisation profile of the decoder's TensorRT engine."""

    name: str
    index: int
    min_sizes: StepSizes
    max_sizes: StepSizes
    positions: int  # in a cache slot


def profile_of(profile: EngineProfile, index: int) -> DecoderProfile:
    """Read the decoder's sizes from the shapes of its inputs; `index` is the profile's number."""

    def size(name: str, axis: int, bound: int) -> int:
        return profile.shapes[name][bound][axis]

    def sizes(bound: int) -> StepSizes:
        return StepSizes(
            rows=size("pad_index", 0, bound),
            chunk=size("pad_index", 1, bound),
            tokens=size("token_ids", 0, bound),
            visual=size("visual_index", 0, bound),
            wanted=size("logit_index", 0, bound),
        )

    minimum, maximum = 0, 2  # a shape range is (min, opt, max)
    positions = size("past", 2, maximum)
    return DecoderProfile(profile.name, index, sizes(minimum), sizes(maximum), positions)


def sizes_of(batch: StepBatch, first: int = 0, last: int | None = None) -> StepSizes:
    """The sizes of rows `first` .. `last` (excluded; all if None) of a call."""
    rows = len(batch.query_lengths)
    last = rows if last is None else last
    if (first, last) == (0, rows):  # nearly always; the general case costs more time per step
        return StepSizes(
            rows,
            int(batch.query_lengths.max()),
            len(batch.token_ids),
            len(batch.visual_index),
            len(batch.logit_index),
        )
    ends = np.concatenate([[0], np.cumsum(batch.query_lengths)])
    start, end = int(ends[first]), int(ends[last])

    def count(index: NDArray[np.int64]) -> int:
        return int(((index >= start) & (index < end)).sum())

    return StepSizes(
        rows=last - first,
        chunk=int(batch.query_lengths[first:last].max()),
        tokens=end - start,
        visual=count(batch.visual_index),
        wanted=count(batch.logit_index),
    )


def bucket_of(
    sizes: StepSizes, profile: DecoderProfile, reach: int, max_rows: int
) -> StepSizes | None:
    """The padded sizes for a call in `profile`; None if the call does not fit.

    reach: the largest number of tokens already in the slot of a row of the call, padded rows
    included. max_rows: number of slots from the call's first one on. If visual tokens are padded,
    one packed token beyond the real ones is added for the padding to be written to.
    """

    def fit(size: int, name: str, limit: int | None = None) -> int:
        maximum: int = getattr(profile.max_sizes, name)
        minimum: int = getattr(profile.min_sizes, name)
        return max(min(size, maximum if limit is None else min(maximum, limit)), minimum)

    bucket = StepSizes(
        rows=fit(_power(sizes.rows), "rows", max_rows),
        chunk=fit(_power_or_multiple(sizes.chunk, 32), "chunk", profile.positions - reach),
        tokens=fit(_tokens(sizes.tokens + 1), "tokens"),
        visual=fit(_power(sizes.visual), "visual"),
        wanted=fit(_power(sizes.wanted), "wanted"),
    )
    padded_visual = bucket.visual > sizes.visual
    needed = replace(sizes, tokens=sizes.tokens + padded_visual)
    fits = needed.fits_in(bucket) and bucket.fits_in(profile.max_sizes)
    in_slots = bucket.rows <= max_rows and reach + bucket.chunk <= profile.positions
    return bucket if fits and in_slots else None


@dataclass(frozen=True)
class PlannedCall:
    """One execution: a range of a step's rows, in a profile, padded to a bucket."""

    first: int
    last: int  # excluded
    profile: DecoderProfile
    bucket: StepSizes


def plan_calls(
    batch: StepBatch,
    held: NDArray[np.int32],
    profiles: Sequence[DecoderProfile],
    start: int = 0,
) -> list[PlannedCall]:
    """The executions of a step's rows from `start` on, as few as possible: nearly always one.

    held: (slots,) number of tokens that each slot may hold. Slots after the last row may serve as
    padding rows, as long as their tokens are kept. The scheduler's prefill budget bounds the total
    of a step, so a step is split only if a compiled engine takes less than that.
    """
    rows = len(batch.query_lengths)
    whole = _plan_call(batch, start, rows, held, profiles)
    if whole is not None:
        return [whole]
    calls: list[PlannedCall] = []
    first, fitting = start, None
    for last in range(start + 1, rows + 1):
        longer = _plan_call(batch, first, last, held, profiles)
        if longer is None and fitting is not None:
            calls.append(fitting)
            first = last - 1
            longer = _plan_call(batch, first, last, held, profiles)
        assert longer is not None, (
            f"row {last - 1} fits no profile of the engine: {sizes_of(batch, last - 1, last)}"
        )
        fitting = longer
    assert fitting is not None
    return [*calls, fitting]


def _plan_call(
    batch: StepBatch,
    first: int,
    last: int,
    held: NDArray[np.int32],
    profiles: Sequence[DecoderProfile],
) -> PlannedCall | None:
    """A call in the first profile that takes these rows, padded with later slots if possible."""
    sizes = sizes_of(batch, first, last)
    past = int(batch.past_lengths[first:last].max())
    paddings = [(past, last - first)]
    if last == len(batch.query_lengths):  # no later slot is a row of this step
        behind = int(held[last:].max(initial=0))
        paddings.insert(0, (max(past, behind), len(held) - first))
    for reach, max_rows in paddings:
        for profile in profiles:
            bucket = bucket_of(sizes, profile, reach, max_rows)
            if bucket is not None:
                return PlannedCall(first, last, profile, bucket)
    return None


def _power(size: int) -> int:
    """The next power of two; 0 for 0."""
    return 0 if size == 0 else 1 << (size - 1).bit_length()


def _power_or_multiple(size: int, step: int) -> int:
    return _power(size) if size <= step else -(-size // step) * step


def _tokens(size: int) -> int:
    """The next multiple of a step that grows with the size: GEMM tiles are at least that large."""
    step = 8 if size <= 64 else 32 if size <= 512 else 128
    return -(-size // step) * step
