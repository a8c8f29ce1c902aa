"""The workload of the GPU comparison: images, prompts of known lengths, captions of one length."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from harness.rows import Row
from numpy.typing import NDArray

from altogether_rt.config import CaptionerConfig

__all__ = ["Workload"]

NEW_TOKENS = 64
SHORTEST, LONGEST = 8, 56  # tokens of an alt-text
#: Stands in for each visual token where an engine takes token ids only.
STAND_IN_ID = 4


@dataclass(frozen=True)
class Workload:
    """Noise as images and token ids: with the end token switched off, only sizes matter."""

    config: CaptionerConfig
    rows: int
    new_tokens: int

    @classmethod
    def of(cls, config: CaptionerConfig, rows: int, new_tokens: int = NEW_TOKENS) -> Workload:
        """`new_tokens` per caption, or as many as the captioner has room for."""
        return cls(config, rows, min(new_tokens, config.max_caption_tokens))

    @property
    def text_lengths(self) -> list[int]:
        """Tokens of each alt-text, spread evenly over SHORTEST..LONGEST."""
        longest = min(LONGEST, self.config.prompt.max_alt_tokens)
        shortest = min(SHORTEST, longest)
        return [shortest + 17 * row % (longest - shortest + 1) for row in range(self.rows)]

    @property
    def prompt_lengths(self) -> list[int]:
        """Tokens of each prompt, the visual ones included."""
        return [self.config.mapper.prefix_length + length for length in self.text_lengths]

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """(rows, H, W, 3)"""
        size = self.config.encoder.image_size
        rng = np.random.default_rng(0)
        return rng.integers(0, 256, (self.rows, size, size, 3), dtype=np.uint8)

    @cached_property
    def prompt_ids(self) -> list[list[int]]:
        """Ids of each alt-text, none of them special."""
        rng = np.random.default_rng(1)
        vocabulary = self.config.decoder.vocab_size
        return [rng.integers(3, vocabulary, length).tolist() for length in self.text_lengths]

    @cached_property
    def listed(self) -> list[Row]:
        """The rows as contestants take them."""
        stand_in = (STAND_IN_ID,) * self.config.mapper.prefix_length
        return [
            Row(index, tuple(ids), stand_in, self.new_tokens)
            for index, ids in enumerate(self.prompt_ids)
        ]

    def describe(self, rows: int) -> dict[str, Any]:
        """The first `rows` rows: keys of the file format."""
        lengths = self.prompt_lengths[:rows]
        return {
            "rows": rows,
            "prompt_tokens": {
                "least": min(lengths),
                "mean": round(sum(lengths) / len(lengths), 1),
                "most": max(lengths),
            },
            "new_tokens": self.new_tokens,
        }
