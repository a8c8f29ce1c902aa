"""Buckets, profiles and memory: pure functions, held to what they promise."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.manifest import CacheSpec, TensorSpec
from altogether_rt.config import CaptionerConfig
from altogether_rt.runtime.base import StepBatch
from altogether_rt.runtime.cuda.memory_plan import (
    ALIGNMENT,
    CacheLayout,
    cache_tensors,
    input_layout,
    layout_bytes,
    plan_device,
)
from altogether_rt.runtime.cuda.step_inputs import logit_rows, padded_inputs
from altogether_rt.runtime.cuda.step_sizes import (
    DecoderProfile,
    StepSizes,
    bucket_of,
    plan_calls,
    profile_of,
    sizes_of,
)
from altogether_rt.runtime.tensorrt.profiles import profiles_for

pytestmark = pytest.mark.lean

WIDTH = 3


@pytest.fixture(scope="module")
def config() -> CaptionerConfig:
    return Bundle.load("starter", verify_hashes=False).config


@pytest.fixture(scope="module")
def profiles(config: CaptionerConfig) -> list[DecoderProfile]:
    """Those that engines are compiled with."""
    listed = profiles_for("decoder", config)
    return [profile_of(profile, index) for index, profile in enumerate(listed)]


def batch_of(lengths: list[int], past: list[int], visual: list[int] | None = None) -> StepBatch:
    """Rows of these lengths; `visual` of them are visual tokens, at their start."""
    visual = visual or [0] * len(lengths)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    index = [start + i for start, count in zip(starts, visual, strict=True) for i in range(count)]
    rng = np.random.default_rng(sum(lengths))
    return StepBatch(
        token_ids=rng.integers(3, 90, sum(lengths)),
        query_lengths=np.array(lengths, np.int32),
        past_lengths=np.array(past, np.int32),
        visual_tokens=rng.normal(size=(len(index), WIDTH)).astype(np.float32),
        visual_index=np.array(index, np.int64),
        logit_index=(ends - 1)[np.array(lengths) > 0].astype(np.int64),
    )


def held_of(batch: StepBatch, slots: int) -> np.ndarray:
    held = np.zeros(slots, np.int32)
    held[: len(batch.past_lengths)] = batch.past_lengths
    return held


@pytest.mark.parametrize(
    ("lengths", "name", "bucket"),
    [
        ([1], "decode", StepSizes(1, 1, 8, 1, 1)),
        ([1] * 7, "decode", StepSizes(8, 1, 8, 1, 8)),
        ([1] * 8, "decode", StepSizes(8, 1, 16, 1, 8)),  # one more, for the visual token
        ([1] * 32, "decode", StepSizes(32, 1, 40, 1, 32)),
        ([4], "verify", StepSizes(1, 4, 8, 1, 1)),
        ([1, 5, 3], "verify", StepSizes(4, 8, 16, 1, 4)),
        ([16, 1], "verify", StepSizes(2, 16, 24, 1, 2)),
        ([17, 1], "prefill", StepSizes(2, 32, 24, 1, 2)),
    ],
)
def test_calls_take_the_smallest_profile(
    lengths: list[int], name: str, bucket: StepSizes, profiles: list[DecoderProfile]
) -> None:
    batch = batch_of(lengths, [20] * len(lengths))
    (call,) = plan_calls(batch, held_of(batch, 32), profiles)
    assert call.profile.name == name
    assert call.bucket == bucket


def test_sizes_of_some_rows() -> None:
    batch = batch_of([5, 0, 2], [0, 3, 4], visual=[4, 0, 1])
    assert sizes_of(batch) == StepSizes(3, 5, 7, 5, 2)
    assert sizes_of(batch, 1) == StepSizes(2, 2, 2, 1, 1)
    assert sizes_of(batch, 0, 1) == StepSizes(1, 5, 5, 4, 1)


def test_every_call_fits_what_it_is_padded_to(
    config: CaptionerConfig, profiles: list[DecoderProfile]
) -> None:
    """Random steps: rows are covered once and in order, and no padding harms anybody."""
    rng = np.random.default_rng(0)
    prompt, prefix = config.max_prompt_tokens, config.mapper.prefix_length
    several = 0
    for _ in range(200):
        slots = int(rng.integers(1, 50))
        rows = int(rng.integers(1, slots + 1))
        fresh = rng.random(rows) < rng.random()
        lengths = np.where(fresh, rng.integers(prefix + 1, prompt + 1, rows), 1)
        drafted = ~fresh & (rng.random(rows) < 0.3)
        lengths = np.where(drafted, rng.integers(2, 17, rows), lengths)
        past = np.where(fresh, 0, rng.integers(prompt, config.capacity - 16, rows))
        batch = batch_of(lengths.tolist(), past.tolist(), np.where(fresh, prefix, 0).tolist())
        held = rng.integers(0, config.capacity + 1, slots).astype(np.int32)
        held[:rows] = past
        calls = plan_calls(batch, held, profiles)
        several += len(calls) > 1
        assert [call.first for call in calls] == [0, *(call.last for call in calls[:-1])]
        assert calls[-1].last == rows
        found = np.concatenate([logit_rows(batch, call) for call in calls])
        assert (found == np.arange(len(batch.logit_index))).all()
        for call in calls:
            inputs = padded_inputs(batch, call, held)
            check_inputs(batch, call.first, call.last, inputs, held, call.profile.positions)
            assert call.bucket.fits_in(call.profile.max_sizes)
            assert call.profile.min_sizes.fits_in(call.bucket)
            assert call.first + call.bucket.rows <= max(slots, call.last)
    assert several > 5


def check_inputs(
    batch: StepBatch,
    first: int,
    last: int,
    inputs: dict[str, np.ndarray],
    held: np.ndarray,
    positions: int,
) -> None:
    """Read through the padding, the inputs are the batch's; beyond it they do no harm."""
    ends = np.cumsum(batch.query_lengths)
    start, end = int(ends[first] - batch.query_lengths[first]), int(ends[last - 1])
    tokens = end - start
    assert (inputs["token_ids"][:tokens] == batch.token_ids[start:end]).all()
    assert (inputs["query_lengths"][: last - first] == batch.query_lengths[first:last]).all()
    assert (inputs["past_lengths"][: last - first] == batch.past_lengths[first:last]).all()
    # What reads packed tokens reads real ones alone.
    assert inputs["pad_index"].max() < tokens
    flat = inputs["pad_index"].reshape(-1)
    assert (flat[inputs["unpad_index"][:tokens]] == np.arange(tokens)).all()
    here = (batch.visual_index >= start) & (batch.visual_index < end)
    assert (inputs["visual_index"][: here.sum()] == batch.visual_index[here] - start).all()
    assert (inputs["visual_index"][here.sum() :] >= tokens).all()
    # Every row writes within its slot, and padded rows behind what theirs hold.
    chunk = inputs["pad_index"].shape[1]
    slots = np.arange(first, first + len(inputs["past_lengths"]))
    assert (inputs["past_lengths"][last - first :] == held[slots[last - first :]]).all()
    assert (inputs["past_lengths"] + chunk).max() <= positions


def test_a_row_near_the_end_of_its_slot_is_padded_less() -> None:
    smallest, largest = StepSizes(1, 1, 1, 1, 1), StepSizes(4, 32, 64, 8, 64)
    profile = DecoderProfile("all", 0, smallest, largest, positions=40)
    sizes = StepSizes(1, 9, 9, 0, 1)
    assert bucket_of(sizes, profile, 0, 4) == StepSizes(1, 16, 16, 1, 1)
    assert bucket_of(sizes, profile, 28, 4) == StepSizes(1, 12, 16, 1, 1)
    assert bucket_of(sizes, profile, 31, 4) == StepSizes(1, 9, 16, 1, 1)
    assert bucket_of(sizes, profile, 32, 4) is None


def test_visual_padding_needs_a_place_of_its_own() -> None:
    smallest, largest = StepSizes(1, 1, 1, 1, 1), StepSizes(4, 32, 9, 8, 64)
    profile = DecoderProfile("all", 0, smallest, largest, positions=100)
    assert bucket_of(StepSizes(1, 9, 9, 8, 1), profile, 0, 4) is not None
    assert bucket_of(StepSizes(1, 9, 9, 7, 1), profile, 0, 4) is None
    assert bucket_of(StepSizes(1, 8, 8, 7, 1), profile, 0, 4) is not None


def test_a_row_that_no_profile_takes_is_refused(profiles: list[DecoderProfile]) -> None:
    batch = batch_of([1000], [0])
    with pytest.raises(AssertionError, match="row 0 fits no profile of the engine"):
        plan_calls(batch, held_of(batch, 1), profiles)


def test_regions_are_aligned_and_apart() -> None:
    plan = plan_device({"a": 1, "b": 256, "c": 0, "d": 300})
    offsets = {name: region.offset for name, region in plan.regions.items()}
    assert offsets == {"a": 0, "b": 256, "c": 512, "d": 512}
    assert plan.nbytes == 512 + 512
    assert all(offset % ALIGNMENT == 0 for offset in offsets.values())


def test_inputs_of_smaller_calls_fit_where_those_of_the_largest_do() -> None:
    specs = [
        TensorSpec("token_ids", "int64", ("T",)),
        TensorSpec("pad_index", "int64", ("B", "S")),
        TensorSpec("visual_tokens", "float16", ("V", "5")),
    ]
    largest = StepSizes(4, 16, 64, 8, 4)
    layout = input_layout(specs, largest)
    assert [region.nbytes for region in layout.values()] == [8 * 64, 8 * 64, 2 * 40]
    for smaller in (largest, replace(largest, rows=1), StepSizes(1, 1, 1, 0, 1)):
        assert layout_bytes(specs, smaller) <= layout_bytes(specs, largest)


def test_past_and_present_share_an_address_and_slots_lie_apart() -> None:
    layout = CacheLayout(CacheSpec(2, 3, 8, "float16"), num_slots=5, positions=10)
    assert layout.slot_bytes == 3 * 10 * 8 * 2
    assert layout.nbytes == 2 * 2 * 5 * layout.slot_bytes
    spans = []
    for first in range(5):
        for tensor in cache_tensors(layout, 1 << 20, first, 1).values():
            assert tensor.shape == (1, 3, 10, 8)
            spans.append((tensor.address, tensor.address + layout.slot_bytes))
    spans.sort()
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert spans[0][0] == 1 << 20
    assert spans[-1][1] == (1 << 20) + layout.nbytes
