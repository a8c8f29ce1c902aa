"""Sizes of a decoder call: rounded up to few kinds, fitted to what an engine takes, split if not.

A GPU prepares kernels, shapes and captured graphs for each combination of sizes, so calls are
padded to buckets. Padding is harmless: padded tokens are referred to by no row, padded rows write
into slots that hold nothing, and padded places of a row are overwritten before anything sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from altogether_rt.artifacts.manifest import EngineProfile
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
    chunk: int  # S: places of each row in the padded view
    tokens: int  # T, packed
    visual: int  # V
    wanted: int  # L: next tokens asked for

    def fits_in(self, largest: StepSizes) -> bool:
        return all(getattr(self, f.name) <= getattr(largest, f.name) for f in fields(self))


@dataclass(frozen=True)
class DecoderProfile:
    """An optimisation profile of the decoder's engine."""

    name: str
    index: int
    least: StepSizes
    largest: StepSizes
    places: int  # of a cache slot


def profile_of(profile: EngineProfile, index: int) -> DecoderProfile:
    """Reads the decoder's sizes off the shapes of its inputs."""

    def size(name: str, axis: int, end: int) -> int:
        return profile.shapes[name][end][axis]

    def sizes(end: int) -> StepSizes:
        return StepSizes(
            rows=size("pad_index", 0, end),
            chunk=size("pad_index", 1, end),
            tokens=size("token_ids", 0, end),
            visual=size("visual_index", 0, end),
            wanted=size("logit_index", 0, end),
        )

    return DecoderProfile(profile.name, index, sizes(0), sizes(2), size("past", 2, 2))


def sizes_of(batch: StepBatch, first: int = 0, last: int | None = None) -> StepSizes:
    """The sizes of rows `first` .. `last` (excluded; all if None) of a call."""
    rows = len(batch.query_lengths)
    last = rows if last is None else last
    if (first, last) == (0, rows):  # nearly always, and a step must not wait for this
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
    sizes: StepSizes, profile: DecoderProfile, reach: int, most_rows: int
) -> StepSizes | None:
    """The padded sizes for a call in `profile`; None if the call does not fit.

    reach: the most tokens that a row of the call, padded ones included, has in its slot already.
    most_rows: slots from the call's first one on. Where visual tokens are padded, there is a packed
    token beyond the real ones: that is where the padding goes.
    """
    least, largest = profile.least, profile.largest

    def fit(wanted: int, name: str, most: int | None = None) -> int:
        top: int = getattr(largest, name)
        bottom: int = getattr(least, name)
        return max(min(wanted, top if most is None else min(top, most)), bottom)

    bucket = StepSizes(
        rows=fit(_power(sizes.rows), "rows", most_rows),
        chunk=fit(_power_or_multiple(sizes.chunk, 32), "chunk", profile.places - reach),
        tokens=fit(_tokens(sizes.tokens + 1), "tokens"),
        visual=fit(_power(sizes.visual), "visual"),
        wanted=fit(_power(sizes.wanted), "wanted"),
    )
    padded_visual = bucket.visual > sizes.visual
    needed = replace(sizes, tokens=sizes.tokens + padded_visual)
    fits = needed.fits_in(bucket) and bucket.fits_in(largest)
    in_slots = bucket.rows <= most_rows and reach + bucket.chunk <= profile.places
    return bucket if fits and in_slots else None


@dataclass(frozen=True)
class PlannedCall:
    """One execution: some rows of a step, in a profile, padded to a bucket."""

    first: int
    last: int  # excluded
    profile: DecoderProfile
    bucket: StepSizes


def plan_calls(
    batch: StepBatch, held: NDArray[np.int32], profiles: Sequence[DecoderProfile]
) -> list[PlannedCall]:
    """The executions of a step, as few as possible: nearly always one.

    held: (slots,) tokens that each slot may hold; rows may be padded with slots behind the last, as
    long as what they hold stays. The engine's prefill budget bounds what rows bring together, so a
    step is only cut where a compiled engine takes less than that.
    """
    rows = len(batch.query_lengths)
    whole = _plan_call(batch, 0, rows, held, profiles)
    if whole is not None:
        return [whole]
    calls: list[PlannedCall] = []
    first, fitting = 0, None
    for last in range(1, rows + 1):
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
    """The first profile that takes these rows: padded with slots behind them if possible."""
    sizes = sizes_of(batch, first, last)
    past = int(batch.past_lengths[first:last].max())
    paddings = [(past, last - first)]
    if last == len(batch.query_lengths):  # the slots behind are not rows of this step
        behind = int(held[last:].max(initial=0))
        paddings.insert(0, (max(past, behind), len(held) - first))
    for reach, most_rows in paddings:
        for profile in profiles:
            bucket = bucket_of(sizes, profile, reach, most_rows)
            if bucket is not None:
                return PlannedCall(first, last, profile, bucket)
    return None


def _power(size: int) -> int:
    """The next power of two, 0 for 0."""
    return 0 if size == 0 else 1 << (size - 1).bit_length()


def _power_or_multiple(size: int, step: int) -> int:
    return _power(size) if size <= step else -(-size // step) * step


def _tokens(size: int) -> int:
    """Multiples of 8, coarser the more there are: GEMM tiles are no smaller."""
    step = 8 if size <= 64 else 32 if size <= 512 else 128
    return -(-size // step) * step
