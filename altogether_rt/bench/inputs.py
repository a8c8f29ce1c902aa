"""Inputs of the benchmark: drawn scenes with their alt-texts, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from altogether_rt.captioner import Captioner
from altogether_rt.captions import CaptionRequest
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.text import make_sample

__all__ = ["BenchInputs", "admitted_parts", "make_inputs"]

SEED = 2410_17251


@dataclass(frozen=True)
class BenchInputs:
    """Requests for the largest batch; a smaller batch takes the first ones."""

    requests: list[CaptionRequest]
    prompts: list[tuple[int, ...]]  # token ids after the visual tokens, one tuple per request
    num_before: int  # tokens before them: fixed and visual ones

    def pixels(self, rows: int) -> NDArray[np.uint8]:
        """Pixels of the first `rows` requests, (rows, H, W, 3)."""
        pixels = (request.pixels for request in self.requests[:rows])
        return np.stack([image for image in pixels if image is not None])

    def prompt_lengths(self, rows: int) -> list[int]:
        """Number of tokens of each row's prompt, including the visual ones."""
        return [self.num_before + len(ids) for ids in self.prompts[:rows]]


def make_inputs(captioner: Captioner, count: int) -> BenchInputs:
    """Draw `count` scenes, a tile each, and tokenize their alt-texts."""
    requests = []
    for index in range(count):
        sample = make_sample(SEED, index, "test")
        pixels = captioner.preprocessor.one_tile(render(sample.scene).convert("RGB"))
        requests.append(CaptionRequest(pixels, sample.alts))
    prompts = [tuple(captioner.tokenizer.prompt(request.alts).ids) for request in requests]
    config = captioner.config
    num_before = len(config.prompt.before_ids) + config.mapper.prefix_length
    return BenchInputs(requests, prompts, num_before)


def admitted_parts(lengths: Sequence[int], max_tokens: int) -> list[slice]:
    """Groups of prompts that the engine admits to one step each.

    A prompt joins the group while the prompts before it in the group have fewer than `max_tokens`.
    """
    parts, start, tokens = [], 0, 0
    for end, length in enumerate(lengths, 1):
        tokens += length
        if tokens >= max_tokens or end == len(lengths):
            parts.append(slice(start, end))
            start, tokens = end, 0
    return parts
