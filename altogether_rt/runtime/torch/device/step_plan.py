"""A ragged step divided by kind: prompts, whose slots are empty, and tokens that follow others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from altogether_rt.runtime.base import StepBatch
from altogether_rt.runtime.torch.device.api import TorchDevice
from altogether_rt.runtime.torch.device.pending import ChosenIds
from altogether_rt.runtime.torch.kernels.slots import PromptRows, RaggedRows

__all__ = ["DeviceStep", "divide_by_phase", "divide_decoding", "upload_step"]


@dataclass(frozen=True)
class DeviceStep:
    """The inputs of a ragged step on the device, which one copy brings there."""

    token_ids: Tensor  # (T,) int32
    positions: Tensor  # (T,) int32 of each token in its slot
    visual_index: Tensor  # (V,) int32
    logit_index: Tensor  # (L,) int32
    rows: RaggedRows | None  # rows that follow cached tokens; None: there are none
    prompts: PromptRows | None
    #: Packed tokens of the prompts: all, a range, or an index (N,) int32.
    prompt_tokens: slice | Tensor


def upload_step(
    batch: StepBatch, device: TorchDevice, chosen: ChosenIds | None = None
) -> DeviceStep:
    """`batch` on `device`, on the stream in use; its visual tokens are not part of it.

    chosen: ids that take the place of the batch's on the device.
    """
    counts, past = batch.query_lengths, batch.past_lengths
    starts = np.cumsum(counts) - counts
    slots = np.repeat(np.arange(len(counts)), counts)  # (T,)
    within = np.arange(len(slots)) - starts[slots]
    is_prompt = _prompts(batch)
    cached = np.where(is_prompt, 0, counts)
    prompt_tokens = np.flatnonzero(is_prompt[slots])  # (N,)
    lengths = counts[is_prompt]
    arrays: dict[str, NDArray[np.integer]] = {
        "token_ids": batch.token_ids,
        "positions": within + past[slots],
        "visual_index": batch.visual_index,
        "logit_index": batch.logit_index,
        "starts": starts,
        "counts": cached,
        "past": past,
        "prompt_slots": slots[prompt_tokens],
        "prompt_positions": within[prompt_tokens],
        "prompt_bounds": np.cumsum([0, *lengths], dtype=np.int32),
        "prompt_tokens": prompt_tokens,
    }
    if chosen is not None:
        arrays |= {"chosen_index": chosen.index, "choices": chosen.choices}
    on_device = _upload(arrays, device)
    if chosen is not None:
        ids = chosen.ids[on_device["choices"]]
        on_device["token_ids"][on_device["chosen_index"]] = ids
    rows = RaggedRows(
        on_device["starts"], on_device["counts"], on_device["past"], int(cached.max(initial=0))
    )
    prompts = PromptRows(
        on_device["prompt_slots"],
        on_device["prompt_positions"],
        on_device["prompt_bounds"],
        tuple(int(length) for length in lengths),
    )
    num_prompt = len(prompt_tokens)
    is_range = num_prompt > 0 and prompt_tokens[-1] - prompt_tokens[0] + 1 == num_prompt
    return DeviceStep(
        token_ids=on_device["token_ids"],
        positions=on_device["positions"],
        visual_index=on_device["visual_index"],
        logit_index=on_device["logit_index"],
        rows=rows if rows.max_tokens else None,
        prompts=prompts if num_prompt else None,
        prompt_tokens=slice(int(prompt_tokens[0]), int(prompt_tokens[-1]) + 1)
        if is_range
        else on_device["prompt_tokens"],
    )


def divide_decoding(batch: StepBatch) -> tuple[int, StepBatch] | None:
    """Of a step whose first rows bring one token each, and whose others are prompts: the number of
    the first, and a step of the prompts. None for any other step.
    """
    is_prompt = _prompts(batch)
    rows = int(is_prompt.argmax())  # of their tokens, too
    asked = batch.logit_index[batch.logit_index >= rows]
    divided = (
        rows > 0
        and bool(is_prompt[rows:].all())
        and bool((batch.query_lengths[:rows] == 1).all())
        and bool((batch.visual_index >= rows).all())
        and bool((np.diff(batch.logit_index) > 0).all())
        and len(asked) > 0
    )
    if not divided:
        return None
    return rows, StepBatch(
        token_ids=batch.token_ids[rows:],
        query_lengths=np.where(is_prompt, batch.query_lengths, 0),
        past_lengths=batch.past_lengths,
        visual_tokens=batch.visual_tokens,
        visual_index=batch.visual_index - rows,
        logit_index=asked - rows,
    )


def divide_by_phase(batch: StepBatch) -> Iterator[tuple[NDArray[np.int64], StepBatch]]:
    """Prompts, then all other rows: the packed tokens that belong to each, and a step of those.

    Which of the two a row is in depends on the row alone. Visual tokens and what is asked for are
    those of the whole step.
    """
    is_prompt = _prompts(batch)
    for wanted in (True, False):
        counts = np.where(is_prompt == wanted, batch.query_lengths, 0)
        tokens = np.flatnonzero(np.repeat(is_prompt == wanted, batch.query_lengths))
        if len(tokens):
            yield (
                tokens,
                StepBatch(
                    token_ids=batch.token_ids[tokens],
                    query_lengths=counts.astype(np.int32),
                    past_lengths=batch.past_lengths,
                    visual_tokens=np.zeros((0, 0), np.float32),
                    visual_index=np.zeros(0, np.int64),
                    logit_index=np.zeros(1, np.int64),
                ),
            )


def _prompts(batch: StepBatch) -> NDArray[np.bool_]:
    """Which rows bring several tokens to an empty slot."""
    found: NDArray[np.bool_] = (batch.past_lengths == 0) & (batch.query_lengths > 1)
    return found


def _upload(arrays: dict[str, NDArray[np.integer]], device: TorchDevice) -> dict[str, Tensor]:
    """Each array as int32, all of them by one copy."""
    packed = device.upload(np.concatenate([array.astype(np.int32) for array in arrays.values()]))
    parts, start = {}, 0
    for name, array in arrays.items():
        parts[name] = packed[start : start + len(array)]
        start += len(array)
    return parts
