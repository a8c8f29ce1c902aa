"""A runtime that computes every step and then chooses the tokens of captions given beforehand.

Random or foreign weights write nothing sensible, and how fast speculation is depends on what is
written. Here every matrix product is computed as usual and only the choice is replaced, so that
draft tokens are accepted exactly where they are those of the given caption.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from altogether_rt.generation.engine import SequenceRequest
from altogether_rt.runtime.base import Runtime, StepBatch, StepResult

__all__ = ["ForcedRuntime"]


@dataclass(frozen=True)
class _Forced:
    """The caption of one slot, and where its prompt ends."""

    prompt_length: int
    tokens: Sequence[int]


class ForcedRuntime:
    """Fulfils `Runtime` around another one. Greedy rows only."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._slots: dict[int, _Forced] = {}
        self._arrived: deque[_Forced] = deque()  # rows drawn by the engine, not yet read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def announce(
        self, work: Iterable[tuple[SequenceRequest, Sequence[int]]]
    ) -> Iterator[SequenceRequest]:
        """The rows for the engine, each with the tokens that are to be chosen for it."""
        for row, tokens in work:
            assert len(tokens) >= row.max_new_tokens
            self._arrived.append(_Forced(row.prompt_length, tokens))
            yield row

    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        """A real step whose greedy choices are replaced."""
        assert not want_logits, "sampling is not forced"
        result = self._runtime.step(batch)
        for slot in np.flatnonzero(
            batch.past_lengths == 0
        ).tolist():  # new rows, as they were drawn
            self._slots[slot] = self._arrived.popleft()
        ends = np.cumsum(batch.query_lengths)
        slots = np.searchsorted(ends, batch.logit_index, side="right")
        starts = ends - batch.query_lengths
        chosen = result.greedy_ids.copy()
        for index, (slot, place) in enumerate(zip(slots, batch.logit_index, strict=True)):
            forced = self._slots[int(slot)]
            in_row = int(batch.past_lengths[slot] + place - starts[slot])
            number = in_row - (forced.prompt_length - 1)  # of the token chosen behind this place
            if number < len(forced.tokens):  # anything after a rejected token is ignored
                chosen[index] = forced.tokens[number]
        return StepResult(chosen)

    def move_slot(self, src: int, dst: int, length: int) -> None:
        """Copy the first `length` tokens of slot `src` over slot `dst`."""
        self._runtime.move_slot(src, dst, length)
        self._slots[dst] = self._slots[src]
