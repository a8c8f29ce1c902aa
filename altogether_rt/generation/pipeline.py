"""Steps that are begun before the tokens of the last one are known, so that a device never waits.

While the device computes step n, step n + 1 is prepared and handed over; its tokens are taken on
the device. Only then the tokens of step n are read. A row that turns out to have ended in step n
has been given to step n + 1 for nothing: what that chooses for it is dropped, and its slot, which
is not freed before, is moved over after that step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from altogether_rt.generation.sequence import ActiveSequence, step_batch
from altogether_rt.generation.stats import EngineStats
from altogether_rt.runtime.base import UNDECIDED, StepBatch, StepResult
from altogether_rt.runtime.pipelined import ChosenTokens, PendingStep, PipelinedRuntime
from altogether_rt.speculation.step_cost import StepCost

__all__ = ["Pipeline"]

#: If more than one in this many rows of a step are left to the host to draw, so many results of the
#: next step are dropped that nothing is gained: steps are waited for.
_MAX_UNDECIDED = 4
#: Steps that are waited for then: each time twice as many, up to this number.
_MAX_PAUSE = 63


@dataclass
class _BegunStep:
    pending: PendingStep
    #: In the order of its choices; None: what it chooses for this row is dropped.
    rows: list[ActiveSequence | None]
    has_prompts: bool


class Pipeline:
    """One step in flight, and the next one begun behind it. For one run of an engine."""

    def __init__(
        self,
        runtime: PipelinedRuntime,
        stats: EngineStats,
        cost: StepCost | None,
        clock: Callable[[], float],
    ) -> None:
        """cost: where the seconds of steps are recorded, as `clock` tells them; None: nowhere."""
        self._runtime, self._stats = runtime, stats
        self._cost, self._clock = cost, clock
        self._begun: _BegunStep | None = None
        #: When the last result came, if since then nothing happened but steps.
        self._result_s: float | None = None
        self._pause_length = self._pause_left = 0

    @property
    def busy(self) -> bool:
        """Whether a step was begun whose tokens were not read."""
        return self._begun is not None

    def unread(self) -> list[ActiveSequence]:
        """The sequences that wait for the step that was begun."""
        return [] if self._begun is None else [row for row in self._begun.rows if row is not None]

    def paused(self) -> bool:
        """Whether the next step is better waited for. Call once a step: it counts down."""
        if not self._pause_left:
            return False
        self._pause_left -= 1
        return True

    def advance(self, active: Sequence[ActiveSequence]) -> list[ActiveSequence]:
        """Begin a step of `active`, then read the one before it; returns those that finished."""
        before = self._begun
        self._begun = self._begin(active, before) if active else None
        return [] if before is None else self._read(before, self._begun)

    def drain(self) -> list[ActiveSequence]:
        """Read the step that was begun, and begin none; returns the sequences that finished."""
        before, self._begun = self._begun, None
        finished = [] if before is None else self._read(before, None)
        self._result_s = None
        return finished

    def _begin(self, active: Sequence[ActiveSequence], before: _BegunStep | None) -> _BegunStep:
        batch = step_batch(active, self._runtime.token_width)
        chosen = None if before is None else _chosen(active, batch, before.pending)
        start_s = time.perf_counter()
        pending = self._runtime.begin(batch, chosen)
        self._stats.decoder_s += time.perf_counter() - start_s
        self._stats.num_steps += 1
        num_prompt_tokens = sum(each.num_pending for each in active if not each.prefilled)
        self._stats.num_prefill_tokens += num_prompt_tokens
        for index, sequence in enumerate(active):
            sequence.await_choice(index)
        return _BegunStep(pending, list(active), num_prompt_tokens > 0)

    def _read(self, step: _BegunStep, following: _BegunStep | None) -> list[ActiveSequence]:
        """Append the tokens of `step`; `following` was begun behind it."""
        rows = [(index, row) for index, row in enumerate(step.rows) if row is not None]
        self._stats.num_dropped_tokens += len(step.rows) - len(rows)
        if not rows:  # nobody waits for it
            return []
        start_s = time.perf_counter()
        result = step.pending.result()
        self._stats.decoder_s += time.perf_counter() - start_s
        self._record(step, following)
        finished: list[ActiveSequence] = []
        num_first = num_undecided = 0
        tokens = _tokens(result)
        for index, sequence in rows:
            token = tokens[index]
            undecided = token == UNDECIDED
            num_first += not sequence.ids
            sequence.append(sequence.choose(result, index) if undecided else token)
            num_undecided += undecided
            if sequence.finish_reason is not None:
                finished.append(sequence)
            if following is None:
                sequence.awaited = None
            elif undecided or sequence.finish_reason is not None:
                _drop(sequence, following)
        self._stats.num_written_tokens += len(rows)
        self._stats.num_first_tokens += num_first
        self._stats.num_decode_tokens += len(rows) - num_first
        if finished:  # whoever takes them takes time too
            self._result_s = None
        self._plan_pause(num_undecided, len(rows))
        return finished

    def _record(self, step: _BegunStep, following: _BegunStep | None) -> None:
        """The time between two results is that of a step: of the device's part or of the host's,
        whichever is longer. Without prompts, as where steps are waited for."""
        now_s, before_s = self._clock(), self._result_s
        self._result_s = now_s
        if self._cost is None or before_s is None or following is None:
            return
        if not step.has_prompts and not following.has_prompts:
            self._cost.record_ahead(len(step.rows), now_s - before_s)

    def _plan_pause(self, num_undecided: int, num_rows: int) -> None:
        if _MAX_UNDECIDED * num_undecided <= num_rows:
            self._pause_length = 0
            return
        self._pause_length = min(2 * self._pause_length + 1, _MAX_PAUSE)
        self._pause_left = self._pause_length


def _chosen(
    active: Sequence[ActiveSequence], batch: StepBatch, before: PendingStep
) -> ChosenTokens | None:
    """The tokens of `batch` that are choices of the step before."""
    awaited = [(slot, row.awaited) for slot, row in enumerate(active) if row.awaited is not None]
    if not awaited:
        return None
    slots, choices = np.array(awaited, np.int64).T
    ends = np.cumsum(batch.query_lengths, dtype=np.int64)
    return ChosenTokens(before, ends[slots] - 1, choices)


def _tokens(result: StepResult) -> list[int]:
    ids = result.greedy_ids if result.sampled_ids is None else result.sampled_ids
    tokens: list[int] = ids.tolist()
    return tokens


def _drop(sequence: ActiveSequence, following: _BegunStep) -> None:
    """`following` was given what does not follow the sequence's last token, if it was given it."""
    if sequence.awaited is None:
        return
    following.rows[sequence.awaited] = None
    sequence.take_back()
