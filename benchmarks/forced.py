"""A runtime that computes every step and then chooses the tokens of given captions.

Random weights write nothing sensible, and the speed of speculation depends on what is written. Here
every matrix product is computed as usual and only the choice is replaced, so that draft tokens are
accepted exactly where they agree with the given caption.
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
    """Implements `Runtime` around another one. Greedy sequences only."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._slots: dict[int, _Forced] = {}
        self._arrived: deque[_Forced] = deque()  # drawn by the engine, prompt not yet read

    def __getattr__(self, name: str) -> Any:
        if name == "begin":  # what is chosen must be replaced before the next step
            raise AttributeError(name)
        return getattr(self._runtime, name)

    def announce(
        self, requests: Iterable[tuple[SequenceRequest, Sequence[int]]]
    ) -> Iterator[SequenceRequest]:
        """Pass requests on to the engine; each comes with the tokens to choose for it."""
        for request, tokens in requests:
            assert len(tokens) >= request.max_new_tokens
            self._arrived.append(_Forced(request.prompt_length, tokens))
            yield request

    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        """A real step whose greedy choices are replaced."""
        assert not want_logits, "sampling is not forced"
        result = self._runtime.step(batch)
        # New sequences are in the order in which the engine drew them.
        for slot in np.flatnonzero(batch.past_lengths == 0).tolist():
            self._slots[slot] = self._arrived.popleft()
        ends = np.cumsum(batch.query_lengths)
        slots = np.searchsorted(ends, batch.logit_index, side="right")
        starts = ends - batch.query_lengths
        chosen = result.greedy_ids.copy()
        for index, (slot, token_index) in enumerate(zip(slots, batch.logit_index, strict=True)):
            forced = self._slots[int(slot)]
            position = int(batch.past_lengths[slot] + token_index - starts[slot])
            caption_index = position - (forced.prompt_length - 1)  # of the token chosen after it
            if caption_index < len(forced.tokens):  # choices after a rejected draft do not count
                chosen[index] = forced.tokens[caption_index]
        return StepResult(chosen)

    def move_slot(self, src: int, dst: int, length: int) -> None:
        """Copy the first `length` tokens of slot `src` over slot `dst`."""
        self._runtime.move_slot(src, dst, length)
        self._slots[dst] = self._slots[src]
