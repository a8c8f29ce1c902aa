"""A runtime whose next token is a function of everything before it, and which checks its caller."""

from __future__ import annotations

from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from altogether_rt.runtime.base import StepBatch, StepResult

VOCAB = 50
EOS = 2


class FakeRuntime:
    """Keeps the tokens of each slot; the next token is a hash of them, EOS about every tenth."""

    device = "cpu"

    def __init__(self, num_slots: int, capacity: int = 64, token_width: int = 2) -> None:
        self.num_slots = num_slots
        self.capacity = capacity
        self.token_width = token_width
        self.slots: list[list[int]] = [[] for _ in range(num_slots)]
        self.batch_sizes: list[int] = []

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return pixels.reshape(len(pixels), -1)[:, :4].astype(np.float32)

    def map(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        shape = (len(embeddings), 3, self.token_width)
        return np.repeat(embeddings.sum(axis=1), 3 * self.token_width).reshape(shape)

    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        rows = len(batch.query_lengths)
        assert rows <= self.num_slots
        assert batch.query_lengths.min() > 0, "an idle row was computed"
        self.batch_sizes.append(rows)
        tokens = batch.token_ids.copy()
        tokens[batch.visual_index] = 1000 + batch.visual_tokens[:, 0].astype(np.int64)
        ends = np.cumsum(batch.query_lengths)
        logits = np.zeros((len(batch.logit_index), VOCAB), np.float32)
        by_end = {}
        for slot in range(rows):
            past = int(batch.past_lengths[slot])
            assert past <= len(self.slots[slot]), "the slot has fewer tokens than claimed"
            new = tokens[ends[slot] - batch.query_lengths[slot] : ends[slot]]
            self.slots[slot] = self.slots[slot][:past] + new.tolist()
            assert len(self.slots[slot]) <= self.capacity
            by_end[int(ends[slot]) - 1] = self.slots[slot]
        for i, place in enumerate(batch.logit_index):
            sequence = by_end[int(place)]
            rng = np.random.default_rng(sequence)
            logits[i] = rng.normal(size=VOCAB)
            if rng.random() < 0.1:
                logits[i, EOS] = 10
        ids = logits.argmax(axis=1)
        return StepResult(ids, logits if want_logits else None)

    def move_slot(self, src: int, dst: int) -> None:
        self.slots[dst] = list(self.slots[src])

    def close(self) -> None:
        self.slots = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
