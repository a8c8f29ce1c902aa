"""Drives a runtime row by row: what each row brings is written down, slots are looked after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.runtime.base import Array, Runtime, StepBatch, StepRow

__all__ = ["Brought", "Row", "run_step", "speak"]

#: A row, its tokens for a step, and its visual tokens if it has any.
Brought: TypeAlias = "tuple[Row, Sequence[int], Array | None]"


@dataclass
class Row:
    """One slot: its length, and what it brings next."""

    past: int = 0

    def bring(self, token_ids: Sequence[int], visual_tokens: Array | None = None) -> Brought:
        """Tokens for the next step, behind visual tokens if there are any."""
        return self, token_ids, visual_tokens


def run_step(
    runtime: Runtime,
    brought: Sequence[Brought],
    want_logits: bool = True,
) -> list[NDArray[np.float32]]:
    """One step over all rows; logits of every token of each row, visual ones included."""
    lengths = [
        len(token_ids) + (0 if visual is None else len(visual)) for _, token_ids, visual in brought
    ]
    rows = [
        StepRow(token_ids, row.past, visual, length)
        for (row, token_ids, visual), length in zip(brought, lengths, strict=True)
    ]
    batch = StepBatch.from_rows(rows, runtime.token_width)
    result = runtime.step(batch, want_logits=want_logits)
    for (row, _, _), length in zip(brought, lengths, strict=True):
        row.past += length
    if result.logits is None:
        return [result.greedy_ids.astype(np.float32)]
    assert (result.greedy_ids == result.logits.argmax(axis=-1)).all()
    return np.split(result.logits, np.cumsum(lengths)[:-1])


def speak(runtime: Runtime, bundle: Bundle) -> list[NDArray[np.float32]]:
    """Prompts, decoding, drafts, and all of it in one step."""
    size = bundle.config.encoder.image_size
    pixels = np.random.default_rng(1).integers(0, 256, (3, size, size, 3), np.uint8)
    visual = runtime.map(runtime.encode(pixels))
    rows = [Row(), Row(), Row()]
    results = run_step(
        runtime, [row.bring([5 + i, 9], visual[i]) for i, row in enumerate(rows[:2])]
    )
    for token in (10, 11, 12):
        results += run_step(runtime, [row.bring([token]) for row in rows[:2]])
    mixed = [rows[0].bring([20, 21, 22]), rows[1].bring([30]), rows[2].bring([7], visual[2])]
    results += run_step(runtime, mixed)
    runtime.move_slot(2, 0, rows[2].past)
    return results + run_step(runtime, [rows[2].bring([40]), rows[1].bring([41, 42])])
