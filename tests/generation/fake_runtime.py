"""A runtime whose next token is a function of everything before it, and which checks its caller."""

from __future__ import annotations

import zlib
from typing import Self

import numpy as np
from numpy.typing import NDArray

from altogether_rt.runtime.base import Array, StepBatch, StepResult

VOCAB = 50
EOS = 2
SEPARATOR = 1  # ends the prompt, for `CopyingRuntime`


class FakeRuntime:
    """Keeps the tokens of each slot; the next token is a hash of them, EOS about every tenth."""

    device = "cpu"

    def __init__(self, num_slots: int, capacity: int = 64, token_width: int = 2) -> None:
        self.num_slots = num_slots
        self.capacity = capacity
        self.token_width = token_width
        self.max_chunk = capacity
        self.prefill_tokens = 2048
        self.slots: list[list[int]] = [[] for _ in range(num_slots)]
        self.batch_sizes: list[int] = []
        self.num_prompts: list[int] = []  # of each step
        self.num_tokens = 0  # computed in all steps

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return pixels.reshape(len(pixels), -1)[:, :4].astype(np.float32)

    def map(self, embeddings: Array) -> NDArray[np.float32]:
        embeddings = np.asarray(embeddings)
        shape = (len(embeddings), 3, self.token_width)
        return np.repeat(embeddings.sum(axis=1), 3 * self.token_width).reshape(shape)

    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        rows = len(batch.query_lengths)
        assert rows <= self.num_slots
        assert batch.query_lengths.min() > 0, "an idle row was computed"
        self.batch_sizes.append(rows)
        self.num_prompts.append(int((batch.past_lengths == 0).sum()))
        tokens = batch.token_ids.copy()
        tokens[batch.visual_index] = 1000 + np.asarray(batch.visual_tokens)[:, 0].astype(np.int64)
        ends = np.cumsum(batch.query_lengths)
        before = {}  # index in the batch -> all tokens of its slot up to there
        for slot in range(rows):
            past = int(batch.past_lengths[slot])
            assert past <= len(self.slots[slot]), "the slot has fewer tokens than claimed"
            start, end = int(ends[slot] - batch.query_lengths[slot]), int(ends[slot])
            # What the slot held after `past` was taken back: it is overwritten.
            self.slots[slot] = self.slots[slot][:past] + tokens[start:end].tolist()
            assert len(self.slots[slot]) <= self.capacity
            for index in range(start, end):
                before[index] = self.slots[slot][: past + index - start + 1]
        self.num_tokens += len(tokens)
        logits = np.stack([self.next_logits(before[int(index)]) for index in batch.logit_index])
        return StepResult(logits.argmax(axis=1), logits if want_logits else None)

    def next_logits(self, sequence: list[int]) -> NDArray[np.float32]:
        """Logits after the tokens of one slot: (VOCAB,)."""
        rng = np.random.default_rng(sequence)
        logits = rng.normal(size=VOCAB).astype(np.float32)
        if rng.random() < 0.1:
            logits[EOS] = 10
        return logits

    def move_slot(self, src: int, dst: int, length: int) -> None:
        self.slots[dst] = self.slots[src][:length]

    def close(self) -> None:
        self.slots = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CopyingRuntime(FakeRuntime):
    """Its captions are the alt-text with edits: words left out, put in and changed.

    Prompts are alt-text tokens and SEPARATOR. A caption that departs from that is random.
    """

    def next_logits(self, sequence: list[int]) -> NDArray[np.float32]:
        seed = zlib.crc32(np.array(sequence).tobytes())  # quicker than a seed of many numbers
        logits = np.random.default_rng(seed).normal(size=VOCAB).astype(np.float32)
        end = sequence.index(SEPARATOR)
        caption, written = edited(sequence[3:end]), sequence[end + 1 :]
        if len(written) < len(caption) and written == caption[: len(written)]:
            logits[caption[len(written)]] += 7
        return logits


def edited(alt: list[int]) -> list[int]:
    """The caption of an alt-text, EOS at its end: every sixth word or so is edited."""
    rng = np.random.default_rng(alt)
    caption: list[int] = []
    for token in alt:
        edit = rng.integers(0, 18)
        if edit == 0:
            continue
        if edit == 1:
            caption += rng.integers(3, VOCAB, rng.integers(1, 4)).tolist()
        caption.append(int(rng.integers(3, VOCAB)) if edit == 2 else token)
    return [*caption, EOS]
