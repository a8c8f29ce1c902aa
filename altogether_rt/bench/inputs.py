"""What the benchmark feeds: drawn scenes with their alt-texts, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from altogether_rt.captioner import Captioner
from altogether_rt.captions import CaptionRequest
from altogether_rt.runtime.base import StepBatch
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.text import make_sample

__all__ = ["BenchInputs", "admitted_parts", "decode_batch", "make_inputs", "prefill_batch"]

SEED = 2410_17251


@dataclass(frozen=True)
class BenchInputs:
    """As many requests as the largest batch has rows; a smaller batch takes the first ones."""

    requests: list[CaptionRequest]
    prompts: list[tuple[int, ...]]  # token ids after the visual tokens, one tuple a request
    num_visual: int  # visual tokens that stand before them

    def pixels(self, rows: int) -> NDArray[np.uint8]:
        pixels = (request.pixels for request in self.requests[:rows])
        return np.stack([picture for picture in pixels if picture is not None])  # (rows, H, W, 3)

    def prompt_lengths(self, rows: int) -> list[int]:
        """Tokens of each row's prompt, the visual ones included."""
        return [self.num_visual + len(ids) for ids in self.prompts[:rows]]


def make_inputs(captioner: Captioner, count: int) -> BenchInputs:
    """Draw `count` scenes and tokenize their alt-texts."""
    requests = []
    for index in range(count):
        sample = make_sample(SEED, index, "test")
        pixels = captioner.preprocessor.pixels(render(sample.scene).convert("RGB"))
        requests.append(CaptionRequest(pixels, sample.alts))
    prompts = [tuple(captioner.tokenizer.prompt(request.alts).ids) for request in requests]
    return BenchInputs(requests, prompts, captioner.config.mapper.prefix_length)


def admitted_parts(lengths: Sequence[int], max_tokens: int) -> list[slice]:
    """Prompts that the engine admits to one step each: as long as those before have not used up
    `max_tokens`."""
    parts, start, tokens = [], 0, 0
    for end, length in enumerate(lengths, 1):
        tokens += length
        if tokens >= max_tokens or end == len(lengths):
            parts.append(slice(start, end))
            start, tokens = end, 0
    return parts


def prefill_batch(visual: NDArray[np.float32], prompts: Sequence[tuple[int, ...]]) -> StepBatch:
    """The call that reads whole prompts. visual: (rows, P, W), prompts: the ids behind them."""
    rows, num_visual, width = visual.shape
    token_ids = np.concatenate([np.array([0] * num_visual + list(ids)) for ids in prompts])
    lengths = np.array([num_visual + len(ids) for ids in prompts])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    return StepBatch(
        token_ids=token_ids.astype(np.int64),
        query_lengths=lengths.astype(np.int32),
        past_lengths=np.zeros(rows, np.int32),
        visual_tokens=visual.reshape(-1, width),
        visual_index=(starts[:, None] + np.arange(num_visual)).reshape(-1).astype(np.int64),
        logit_index=(ends - 1).astype(np.int64),
    )


def decode_batch(past_lengths: Sequence[int], token_id: int, width: int) -> StepBatch:
    """The call that brings each row one more token."""
    rows = len(past_lengths)
    return StepBatch(
        token_ids=np.full(rows, token_id, np.int64),
        query_lengths=np.ones(rows, np.int32),
        past_lengths=np.array(past_lengths, np.int32),
        visual_tokens=np.zeros((0, width), np.float32),
        visual_index=np.zeros(0, np.int64),
        logit_index=np.arange(rows, dtype=np.int64),
    )
