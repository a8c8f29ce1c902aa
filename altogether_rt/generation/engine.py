"""Continuous batching over the fixed cache slots of a runtime.

Every step is one ragged decoder call: new sequences bring their whole prompt, the others their last
token and, where it saves time, draft tokens, of which those are kept that the model would have
chosen. A finished sequence leaves at once; the last active slot is moved into its slot, so that the
active slots stay a prefix and no idle row is computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

from altogether_rt.captions import FinishReason
from altogether_rt.generation.sequence import (
    ActiveSequence,
    Completion,
    EndTokens,
    SequenceRequest,
    sampling_of,
)
from altogether_rt.runtime.base import Runtime, StepBatch, StepResult
from altogether_rt.speculation.drafter import Draft
from altogether_rt.speculation.planner import DraftPlanner, Speculation

__all__ = ["STAGE_SECONDS", "Completion", "Engine", "EngineStats", "SequenceRequest"]

#: Fields of `EngineStats` that hold the seconds of a stage.
STAGE_SECONDS = ("decode_wait_s", "encode_s", "map_s", "decoder_s")


@dataclass
class EngineStats:
    """Counts of an engine, or of several that share them."""

    num_steps: int = 0
    num_verify_steps: int = 0  # steps with draft tokens to verify
    num_prefill_tokens: int = 0  # read by the decoder: prompts
    num_decode_tokens: int = 0  # read by the decoder: written by the step before
    num_drafted_tokens: int = 0  # read by the decoder: draft tokens to verify
    num_accepted_tokens: int = 0  # draft tokens that were accepted
    num_written_tokens: int = 0  # chosen for captions, EOS included
    num_first_tokens: int = 0  # of these, chosen in the step that reads the prompt
    # Seconds by stage. The first three are counted by whatever feeds the engine.
    decode_wait_s: float = 0.0  # nothing to generate: no image was decoded yet
    encode_s: float = 0.0
    map_s: float = 0.0
    decoder_s: float = 0.0

    def add(self, other: EngineStats) -> None:
        """Add the counts of another engine."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    @property
    def acceptance(self) -> float | None:
        """Fraction of the draft tokens that were accepted; None if there were none."""
        if not self.num_drafted_tokens:
            return None
        return self.num_accepted_tokens / self.num_drafted_tokens

    @property
    def tokens_per_decode(self) -> float | None:
        """Tokens that a sequence gains per step after its prefill: 1 without speculation."""
        if not self.num_decode_tokens:
            return None
        return (self.num_written_tokens - self.num_first_tokens) / self.num_decode_tokens


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
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """max_prefill_tokens: once a step has this many prompt tokens, no more sequences are
        admitted to it; None: the runtime's preference. speculation: whether rows bring draft
        tokens; captions are the same either way.

        planner, stats: those of an earlier engine of this runtime, to continue from what it learnt
        and counted.
        """
        self._runtime = runtime
        self._ends = EndTokens(eos_id, frozenset(stop_ids))
        self._max_prefill_tokens = max_prefill_tokens or runtime.prefill_tokens
        self._speculation: Speculation = speculation
        self._planner = DraftPlanner() if planner is None else planner
        self._clock = clock
        self.stats = EngineStats() if stats is None else stats

    def run(self, requests: Iterable[SequenceRequest | None]) -> Iterator[Completion]:
        """Yield completions as they finish; `requests` is drawn from as slots become free.

        A None from `requests` means that none is ready: the engine continues with its active
        sequences and asks again after the next step.
        """
        waiting = iter(requests)
        active: list[ActiveSequence] = []  # in slot order
        exhausted = False
        while True:
            if not exhausted:
                exhausted = self._admit(waiting, active)
            if active:
                yield from self._step(active)
            elif exhausted:
                return

    def _admit(
        self, waiting: Iterator[SequenceRequest | None], active: list[ActiveSequence]
    ) -> bool:
        """Fill free slots up to the prefill budget; True when there are no more requests."""
        budget = self._max_prefill_tokens
        while len(active) < self._runtime.num_slots and budget > 0:
            try:
                request = next(waiting)
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

    def _step(self, active: list[ActiveSequence]) -> Iterator[Completion]:
        """One decoder call for all sequences; yields those that finish and frees their slots."""
        drafts, draft_tokens = self._draft(active)
        start_s = self._clock()
        any_prefill = not all(sequence.prefilled for sequence in active)
        want_logits = any(sequence.sampled for sequence in active)
        batch = StepBatch.from_rows(
            map(ActiveSequence.step_row, active, draft_tokens),
            self._runtime.token_width,
            sampling_of(active, draft_tokens) if want_logits else None,
        )
        step_start_s = time.perf_counter()
        result = self._runtime.step(batch, want_logits=want_logits)
        self.stats.decoder_s += time.perf_counter() - step_start_s
        finished = self._accept(active, drafts, draft_tokens, result)
        if not any_prefill and self._speculation != "off":  # a prompt's tokens cost less each
            seconds = self._clock() - start_s
            self._planner.cost.record(len(active), len(batch.token_ids), seconds)
        # From the last slot down, so that a slot moved into a gap is never one that finished too.
        for slot, reason in reversed(finished):
            yield self._release(active, slot).completion(reason)

    def _draft(
        self, active: list[ActiveSequence]
    ) -> tuple[Sequence[Draft | None], list[tuple[int, ...]]]:
        """For each sequence its draft, None if there is none, and the draft tokens to verify."""
        if not self._planner.wants_drafts(self._speculation, len(active)):
            return [None] * len(active), [()] * len(active)
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
    ) -> list[tuple[int, FinishReason]]:
        """Append each sequence's next tokens; returns the slots that finished, and why."""
        stats = self.stats
        stats.num_steps += 1
        stats.num_verify_steps += any(draft_tokens)
        finished, start = [], 0
        for slot, (sequence, draft, drafted) in enumerate(
            zip(active, drafts, draft_tokens, strict=True)
        ):
            decoding, num_pending = sequence.prefilled, sequence.num_pending
            num_written, reason = sequence.accept(result, start, drafted)
            if decoding:
                stats.num_decode_tokens += num_pending
            else:
                stats.num_prefill_tokens += num_pending
                stats.num_first_tokens += num_written
            start += 1 + len(drafted)
            sequence.observe(draft, num_written, finished=reason is not None)
            stats.num_drafted_tokens += len(drafted)
            stats.num_accepted_tokens += num_written - 1
            stats.num_written_tokens += num_written
            if reason is not None:
                finished.append((slot, reason))
        return finished

    def _release(self, active: list[ActiveSequence], slot: int) -> ActiveSequence:
        """Remove the sequence in `slot`; the last active slot is moved there."""
        sequence, last = active[slot], len(active) - 1
        if slot != last:
            self._runtime.move_slot(last, slot, active[last].length)
            active[slot] = active[last]
        active.pop()
        return sequence
