"""A runtime that computes nothing before its result is asked for, as a device might."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from altogether_rt.generation.sampling import sample_top_p
from altogether_rt.runtime.base import UNDECIDED, StepBatch, StepResult
from altogether_rt.runtime.pipelined import ChosenTokens
from tests.generation.fake_runtime import EOS, VOCAB, FakeRuntime

__all__ = ["PendingFake", "PipelinedFakeRuntime", "WanderingRuntime"]

#: What a device brings instead of a token that it left to the host.
_ANY_TOKEN = 47


class WanderingRuntime(FakeRuntime):
    """Captions of every kind: some loop, some end early or late, some never; all tokens count."""

    def next_logits(self, sequence: list[int]) -> NDArray[np.float32]:
        seed = zlib.crc32(np.array(sequence).tobytes())
        logits = np.random.default_rng(seed).normal(size=VOCAB).astype(np.float32)
        kind = sequence[0] % 4  # the first visual token's
        if kind == 0 and len(sequence) > 8:
            logits[sequence[-1 - sequence[0] % 3]] += 9
        elif kind in (1, 2) and seed % (5 if kind == 1 else 30) == 0:
            logits[EOS] += 9
        elif kind == 3:
            logits[EOS] = -99
        return logits


class PipelinedFakeRuntime(WanderingRuntime):
    """Implements `PipelinedRuntime`; finds mistakes in the order of calls and in slots.

    Steps and moves are carried out, in order, when a later result is asked for.
    """

    def __init__(self, num_slots: int, capacity: int = 64, undecided: float = 0.0) -> None:
        """undecided: part of the drawn tokens that is left to the host."""
        super().__init__(num_slots, capacity)
        self._undecided = undecided
        self._given: deque[Callable[[], None]] = deque()
        self._last: PendingFake | None = None
        self.num_begun = 0
        self.num_read = 0
        self.num_ahead = 0  # results that were read when the next step had been begun
        self.num_waited_for = 0  # steps that were not begun ahead
        self.sizes: list[int] = []  # rows of the steps that were begun

    def begin(self, batch: StepBatch, chosen: ChosenTokens | None = None) -> PendingFake:
        if chosen is not None:
            assert chosen.step is self._last, "of another step than the one begun last"
            assert len(set(chosen.choices.tolist())) == len(chosen.choices) >= 1
        self._last = PendingFake(self, batch, chosen, self.num_begun)
        self.num_begun += 1
        self.sizes.append(len(batch.query_lengths))
        self._given.append(self._last.compute)
        return self._last

    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        self.num_waited_for += 1
        self.carry_out()
        return super().step(batch, want_logits)

    def compute(self, batch: StepBatch) -> StepResult:
        found = super().step(batch, want_logits=True)
        if batch.sampling is None:
            return StepResult(found.greedy_ids)
        assert found.logits is not None
        drawn_with = zip(
            batch.sampling.uniforms,
            batch.sampling.temperatures,
            batch.sampling.top_ps,
            strict=True,
        )
        drawn = found.greedy_ids.copy()
        kept = np.zeros_like(found.logits)
        for index, (uniform, temperature, top_p) in enumerate(drawn_with):
            logits = found.logits[index]
            if temperature > 0 and zlib.crc32(logits.tobytes()) % 1000 < 1000 * self._undecided:
                drawn[index], kept[index] = UNDECIDED, logits
            elif temperature > 0:
                drawn[index] = sample_top_p(logits, uniform, temperature, top_p)
        return StepResult(found.greedy_ids, kept if UNDECIDED in drawn else None, drawn)

    def move_slot(self, src: int, dst: int, length: int) -> None:
        self._given.append(partial(self._move, src, dst, length))

    def _move(self, src: int, dst: int, length: int) -> None:
        assert 0 < length <= len(self.slots[src]), "more is moved than was written"
        super().move_slot(src, dst, length)
        self.slots[src] = []  # whatever reads it now finds nothing

    def carry_out(self, until: Callable[[], bool] = lambda: False) -> None:
        while self._given and not until():
            self._given.popleft()()


class PendingFake:
    """Implements `PendingStep`."""

    def __init__(
        self,
        runtime: PipelinedFakeRuntime,
        batch: StepBatch,
        chosen: ChosenTokens | None,
        number: int,
    ) -> None:
        self._runtime, self._batch = runtime, batch
        self._chosen = chosen
        self._number = number
        self._result: StepResult | None = None
        self.next_ids: NDArray[np.int64] | None = None

    def compute(self) -> None:
        if self._chosen is not None:
            assert isinstance(self._chosen.step, PendingFake)
            before = self._chosen.step.next_ids
            assert before is not None
            self._batch.token_ids[self._chosen.index] = before[self._chosen.choices]
        self._result = result = self._runtime.compute(self._batch)
        ids = result.greedy_ids if result.sampled_ids is None else result.sampled_ids
        self.next_ids = np.where(ids == UNDECIDED, _ANY_TOKEN, ids)

    def result(self) -> StepResult:
        runtime = self._runtime
        assert runtime.num_read <= self._number, "a result is asked for twice, or out of order"
        assert runtime.num_begun - self._number <= 2, "more than one step was begun behind it"
        runtime.num_ahead += runtime.num_begun > self._number + 1
        runtime.num_read = self._number + 1
        runtime.carry_out(lambda: self._result is not None)
        assert self._result is not None
        return self._result
