"""Continuous batching over the fixed cache slots of a runtime.

Every step is one ragged decoder call: new sequences bring their whole prompt, the others their last
token and, where it saves time, draft tokens, of which those are kept that the model would have
chosen. A finished sequence leaves at once; the last active slot is moved into its slot, so that the
active slots stay a prefix and no idle row is computed. A backend that can begin a step is given the
next one before the last one's tokens are known (`pipeline`); captions are the same.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from altogether_rt.generation.pipeline import Pipeline
from altogether_rt.generation.sequence import (
    ActiveSequence,
    Completion,
    EndTokens,
    SequenceRequest,
    step_batch,
)
from altogether_rt.generation.stats import STAGE_SECONDS, EngineStats
from altogether_rt.generation.turns import Turn, Turns
from altogether_rt.runtime.base import Runtime, StepResult
from altogether_rt.runtime.pipelined import as_pipelined
from altogether_rt.speculation.drafter import Draft
from altogether_rt.speculation.planner import DraftPlanner, Speculation

__all__ = ["STAGE_SECONDS", "Completion", "Engine", "EngineStats", "SequenceRequest"]


class Engine:
    """Generates captions with a runtime; imports no backend."""

    def __init__(
        self,
        runtime: Runtime,
        eos_id: int,
        stop_ids: Sequence[int] = (),
        *,
        max_prefill_tokens: int | None = None,
        speculation: Speculation = "auto",
        planner: DraftPlanner | None = None,
        stats: EngineStats | None = None,
        turn: Turn | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """max_prefill_tokens: once a step has this many prompt tokens, no more sequences are
        admitted to it; None: the runtime's preference. speculation: whether rows bring draft
        tokens; captions are the same either way.

        planner, stats: those of an earlier engine of this runtime, to continue from what it learnt
        and counted. turn: of a run among others of this runtime; None: there are no others.
        """
        self._runtime = runtime
        self._ends = EndTokens(eos_id, frozenset(stop_ids))
        self._max_prefill_tokens = max_prefill_tokens or runtime.prefill_tokens
        self._speculation: Speculation = speculation
        self._planner = DraftPlanner() if planner is None else planner
        self._clock = clock
        self._turn = Turns().new() if turn is None else turn
        self.stats = EngineStats() if stats is None else stats

    def run(self, requests: Iterable[SequenceRequest | None]) -> Iterator[Completion]:
        """Yield completions as they finish; `requests` is drawn from as slots become free.

        A None from `requests` means that none is ready: the engine continues with its active
        sequences and asks again after the next step. Stopping early leaves no work behind that a
        later run could see. If another run was given a turn meanwhile, which may be wherever a
        request is drawn or a completion was taken, the active sequences begin again.
        """
        waiting = iter(requests)
        again: deque[SequenceRequest] = deque()
        active: list[ActiveSequence] = []  # in slot order
        pipeline = self._new_pipeline()
        exhausted = False
        while True:
            if not self._turn.undisturbed:
                again.extendleft(reversed(_unfinished(active, pipeline)))
                active, pipeline = [], self._new_pipeline()
                self._turn.claim()
            self._free_slots(active)
            if again or not exhausted:
                exhausted = self._admit(again, waiting, active)
            if not self._turn.undisturbed:
                continue
            if active or (pipeline is not None and pipeline.busy):
                for sequence in self._advance(active, pipeline):
                    yield sequence.completion()
            elif exhausted:
                return

    def _new_pipeline(self) -> Pipeline | None:
        runtime = as_pipelined(self._runtime)
        if runtime is None:
            return None
        cost = None if self._speculation == "off" else self._planner.cost
        return Pipeline(runtime, self.stats, cost, self._clock)

    def _admit(
        self,
        again: deque[SequenceRequest],
        waiting: Iterator[SequenceRequest | None],
        active: list[ActiveSequence],
    ) -> bool:
        """Fill free slots up to the prefill budget; True when there are no more requests."""
        budget = self._max_prefill_tokens
        while len(active) < self._runtime.num_slots and budget > 0:
            try:
                request = again.popleft() if again else next(waiting)
            except StopIteration:
                return True
            if request is None:
                return False
            # The last token chosen is never read again, so it takes no room in the slot.
            num_cached = request.prompt_length + request.max_new_tokens - 1
            assert num_cached <= self._runtime.capacity, (
                "the prompt and the caption do not fit in a cache slot"
            )
            active.append(ActiveSequence(request, self._ends))
            budget -= request.prompt_length
        return False

    def _advance(
        self, active: list[ActiveSequence], pipeline: Pipeline | None
    ) -> list[ActiveSequence]:
        """One step of all sequences, or its beginning; returns sequences that have finished.

        Where the runtime can begin a step, the next one is begun before the tokens of this one are
        known, unless it brings draft tokens, which follow from them.
        """
        drafting = self._planner.wants_drafts(self._speculation, len(active))
        if pipeline is None:
            return self._step(active, drafting)
        if not drafting and not pipeline.paused():
            return pipeline.advance(active)
        finished = pipeline.drain()
        self._free_slots(active)
        return finished + self._step(active, drafting) if active else finished

    def _step(self, active: list[ActiveSequence], drafting: bool) -> list[ActiveSequence]:
        """One decoder call for all sequences, and its tokens; returns those that finish."""
        drafts, draft_tokens = self._draft(active) if drafting else _no_drafts(len(active))
        start_s = self._clock()
        any_prefill = not all(sequence.prefilled for sequence in active)
        batch = step_batch(active, self._runtime.token_width, draft_tokens)
        step_start_s = time.perf_counter()
        result = self._runtime.step(batch, want_logits=batch.sampling is not None)
        self.stats.decoder_s += time.perf_counter() - step_start_s
        self._accept(active, drafts, draft_tokens, result)
        if not any_prefill and self._speculation != "off":  # a prompt's tokens cost less each
            seconds = self._clock() - start_s
            self._planner.cost.record(len(active), len(batch.token_ids), seconds)
        return [sequence for sequence in reversed(active) if sequence.finish_reason is not None]

    def _draft(self, active: list[ActiveSequence]) -> tuple[Sequence[Draft], list[tuple[int, ...]]]:
        """For each sequence its draft, and the draft tokens to verify."""
        start_s = self._clock()
        max_chunk = self._runtime.max_chunk
        token_cost = self._planner.token_cost(self._speculation, len(active))
        drafts = [sequence.propose(self._planner, token_cost, max_chunk) for sequence in active]
        self._planner.record_drafting(len(active), self._clock() - start_s)
        lengths = self._planner.draft_lengths(self._speculation, [draft.gains for draft in drafts])
        return drafts, [
            draft.tokens[:length] for draft, length in zip(drafts, lengths, strict=True)
        ]

    def _accept(
        self,
        active: list[ActiveSequence],
        drafts: Sequence[Draft | None],
        draft_tokens: list[tuple[int, ...]],
        result: StepResult,
    ) -> None:
        """Append each sequence's next tokens."""
        stats = self.stats
        stats.num_steps += 1
        stats.num_verify_steps += any(draft_tokens)
        start = 0
        for sequence, draft, drafted in zip(active, drafts, draft_tokens, strict=True):
            decoding, num_pending = sequence.prefilled, sequence.num_pending
            num_written = sequence.accept(result, start, drafted)
            if decoding:
                stats.num_decode_tokens += num_pending
            else:
                stats.num_prefill_tokens += num_pending
                stats.num_first_tokens += num_written
            start += 1 + len(drafted)
            sequence.observe(draft, num_written)
            stats.num_drafted_tokens += len(drafted)
            stats.num_accepted_tokens += num_written - 1
            stats.num_written_tokens += num_written

    def _free_slots(self, active: list[ActiveSequence]) -> None:
        """Remove the sequences that need no further step; the last active slots are moved there.

        From the last slot down, so that a slot moved into a gap is never one that has ended too. A
        step that was begun is not disturbed: slots are moved after it.
        """
        for slot in reversed([slot for slot, sequence in enumerate(active) if sequence.ended]):
            active[slot].awaited = None
            last = len(active) - 1
            if slot != last:
                if active[last].prefilled:
                    self._runtime.move_slot(last, slot, active[last].length)
                active[slot] = active[last]
            active.pop()


def _unfinished(
    active: Sequence[ActiveSequence], pipeline: Pipeline | None
) -> list[SequenceRequest]:
    """The requests of active sequences, and of those whose last token was not read; by key."""
    unread = () if pipeline is None else pipeline.unread()
    lost = {id(each): each for each in (*active, *unread) if each.finish_reason is None}
    return sorted((each.request for each in lost.values()), key=lambda request: request.key)


def _no_drafts(rows: int) -> tuple[Sequence[Draft | None], list[tuple[int, ...]]]:
    return [None] * rows, [()] * rows
