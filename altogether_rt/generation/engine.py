"""Continuous batching over the fixed cache slots of a runtime.

Every step is one ragged decoder call: rows that have just arrived bring their whole prompt, the
others their last token and all, where it saves time, guesses of the next ones, of which those are
kept that the model would have chosen. A finished row leaves at once; the last active slot moves
into its place, so that active slots stay a prefix and no idle row is computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

from altogether_rt.generation.sequence import (
    Completion,
    EndTokens,
    FinishReason,
    Row,
    Work,
)
from altogether_rt.runtime.base import Runtime, StepBatch, StepResult
from altogether_rt.speculation.drafter import Draft
from altogether_rt.speculation.planner import DraftPlanner, Speculation

__all__ = ["STAGE_SECONDS", "Completion", "Engine", "EngineStats", "Work"]

#: Fields of `EngineStats` that say where the time went.
STAGE_SECONDS = ("decode_wait_s", "encode_s", "map_s", "decoder_s")


@dataclass
class EngineStats:
    """What an engine has done, or several that share it."""

    num_steps: int = 0
    num_verify_steps: int = 0  # steps with guesses to verify
    num_prefill_tokens: int = 0  # read: of prompts
    num_decode_tokens: int = 0  # read: written by the step before
    num_drafted_tokens: int = 0  # read: guessed
    num_accepted_tokens: int = 0  # of the guessed ones, those that were right
    num_written_tokens: int = 0  # chosen for captions, EOS included
    num_first_tokens: int = 0  # of these, in the step that reads the prompt
    # Where the time went, in seconds. Whoever feeds the engine counts the first three.
    decode_wait_s: float = 0.0  # nothing to write: no image was decoded yet
    encode_s: float = 0.0
    map_s: float = 0.0
    decoder_s: float = 0.0

    def add(self, other: EngineStats) -> None:
        """Counts what another engine has done as well."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    @property
    def acceptance(self) -> float | None:
        """Share of the guesses that were right; None if there were none."""
        if not self.num_drafted_tokens:
            return None
        return self.num_accepted_tokens / self.num_drafted_tokens

    @property
    def tokens_per_decode(self) -> float | None:
        """Tokens that a row writes in a step after its prompt's: 1 without speculation."""
        if not self.num_decode_tokens:
            return None
        return (self.num_written_tokens - self.num_first_tokens) / self.num_decode_tokens


class Engine:
    """Writes captions with a runtime; pure logic, no backend imported."""

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
        """max_prefill_tokens: of one step; no more rows are admitted beyond. None: as the runtime
        likes it. speculation: whether rows bring guesses; the captions are the same.

        planner, stats: to go on with what other engines of this runtime have learnt and counted.
        """
        self._runtime = runtime
        self._ends = EndTokens(eos_id, frozenset(stop_ids))
        self._max_prefill_tokens = max_prefill_tokens or runtime.prefill_tokens
        self._speculation: Speculation = speculation
        self._planner = DraftPlanner() if planner is None else planner
        self._clock = clock
        self.stats = EngineStats() if stats is None else stats

    def run(self, work: Iterable[Work | None]) -> Iterator[Completion]:
        """Completions as they finish; `work` is drawn from as slots become free.

        A None from `work` says that nothing is ready now: the engine goes on with the rows that it
        has and asks again after the next step.
        """
        waiting = iter(work)
        rows: list[Row] = []  # row i lives in slot i
        exhausted = False
        while True:
            if not exhausted:
                exhausted = self._admit(waiting, rows)
            if rows:
                yield from self._step(rows)
            elif exhausted:
                return

    def _admit(self, waiting: Iterator[Work | None], rows: list[Row]) -> bool:
        """Fills free slots up to the prefill budget; True when no work is left."""
        budget = self._max_prefill_tokens
        while len(rows) < self._runtime.num_slots and budget > 0:
            try:
                work = next(waiting)
            except StopIteration:
                return True
            if work is None:
                return False
            # The last token chosen is never fed back, so it needs no place in the slot.
            fits = work.prompt_length + work.max_new_tokens - 1 <= self._runtime.capacity
            assert fits, "the prompt and the caption do not fit in a cache slot"
            rows.append(Row(work, self._ends))
            budget -= work.prompt_length
        return False

    def _step(self, rows: list[Row]) -> Iterator[Completion]:
        """One decoder call for all rows; yields those that finish and frees their slots."""
        drafts, guesses = self._speculate(rows)
        start_s = self._clock()
        num_new = sum(not row.prefilled for row in rows)
        batch = StepBatch.from_rows(map(Row.step_row, rows, guesses), self._runtime.token_width)
        step_start_s = time.perf_counter()
        result = self._runtime.step(batch, want_logits=any(row.sampled for row in rows))
        self.stats.decoder_s += time.perf_counter() - step_start_s
        finished = self._take(rows, drafts, guesses, result)
        if not num_new and self._speculation != "off":  # reading prompts costs another rate
            seconds = self._clock() - start_s
            self._planner.cost.record(len(rows), len(batch.token_ids), seconds)
        # From the last slot down, so that a slot moved into a gap is never one that finished too.
        for index, reason in reversed(finished):
            yield self._release(rows, index).completion(reason)

    def _speculate(self, rows: list[Row]) -> tuple[Sequence[Draft | None], list[tuple[int, ...]]]:
        """For each row all that is guessed, None where nothing is, and what of it to verify."""
        if not self._planner.wants_drafts(self._speculation, len(rows)):
            return [None] * len(rows), [()] * len(rows)
        start_s = self._clock()
        max_chunk = self._runtime.max_chunk
        min_reached = self._planner.min_reached(self._speculation, len(rows))
        drafts = [row.propose(self._planner, min_reached, max_chunk) for row in rows]
        self._planner.record_drafting(len(rows), self._clock() - start_s)
        lengths = self._planner.lengths(self._speculation, [draft.gains for draft in drafts])
        return drafts, [d.tokens[:length] for d, length in zip(drafts, lengths, strict=True)]

    def _take(
        self,
        rows: list[Row],
        drafts: Sequence[Draft | None],
        guesses: list[tuple[int, ...]],
        result: StepResult,
    ) -> list[tuple[int, FinishReason]]:
        """Writes each row's next tokens; the slots of rows that are finished, and why."""
        stats = self.stats
        stats.num_steps += 1
        stats.num_verify_steps += any(guesses)
        finished, place = [], 0
        for index, (row, draft, guessed) in enumerate(zip(rows, drafts, guesses, strict=True)):
            decoding, num_pending = row.prefilled, row.num_pending
            num_written, reason = row.take(result, place, guessed)
            if decoding:
                stats.num_decode_tokens += num_pending
            else:
                stats.num_prefill_tokens += num_pending
                stats.num_first_tokens += num_written
            place += 1 + len(guessed)
            row.observe(draft, num_written, finished=reason is not None)
            stats.num_drafted_tokens += len(guessed)
            stats.num_accepted_tokens += num_written - 1
            stats.num_written_tokens += num_written
            if reason is not None:
                finished.append((index, reason))
        return finished

    def _release(self, rows: list[Row], index: int) -> Row:
        """Takes a row out; the last active slot fills the gap."""
        row, last = rows[index], len(rows) - 1
        if index != last:
            self._runtime.move_slot(last, index, rows[last].length)
            rows[index] = rows[last]
        rows.pop()
        return row
