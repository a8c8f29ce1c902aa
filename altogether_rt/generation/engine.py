"""Continuous batching over the fixed cache slots of a runtime.

Every step is one ragged decoder call: rows that have just arrived bring their whole prompt, the
others their last token. A finished row leaves at once; the last active slot moves into its place,
so that active slots stay a prefix and no idle row is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from altogether_rt.generation.sampling import row_uniforms, sample_top_p
from altogether_rt.runtime.base import Runtime, StepBatch

__all__ = ["Completion", "Engine", "EngineStats", "Work"]


@dataclass(frozen=True)
class Work:
    """One caption to write."""

    key: int  # given back with the completion
    visual_tokens: NDArray[np.float32]  # (P, W)
    prompt_ids: Sequence[int]  # after the visual tokens
    max_new_tokens: int
    seed: int = 0
    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0


@dataclass(frozen=True)
class Completion:
    """A written caption: its token ids without EOS."""

    key: int
    ids: tuple[int, ...]
    num_tokens: int  # chosen tokens, EOS included
    finish_reason: Literal["eos", "length"]


@dataclass
class EngineStats:
    """What the engine has done since it was made."""

    num_steps: int = 0
    num_prefill_tokens: int = 0
    num_decode_tokens: int = 0


@dataclass
class _Row:
    """The state of one active slot."""

    work: Work
    length: int = 0  # tokens in the slot's cache
    ids: list[int] = field(default_factory=list)
    uniforms: NDArray[np.float64] | None = None

    @property
    def prefilled(self) -> bool:
        return self.length > 0


class Engine:
    """Writes captions with a runtime; pure logic, no backend imported."""

    def __init__(
        self,
        runtime: Runtime,
        eos_id: int,
        stop_ids: Sequence[int] = (),
        *,
        max_prefill_tokens: int = 2048,
    ) -> None:
        self._runtime = runtime
        self._eos_id = eos_id
        self._stop_ids = frozenset(stop_ids)
        self._max_prefill_tokens = max_prefill_tokens
        self.stats = EngineStats()

    def run(self, work: Iterable[Work]) -> Iterator[Completion]:
        """Completions as they finish; `work` is drawn from as slots become free."""
        waiting = iter(work)
        rows: list[_Row] = []  # row i lives in slot i
        exhausted = False
        while True:
            if not exhausted:
                exhausted = self._admit(waiting, rows)
            if not rows:
                return
            yield from self._step(rows)

    def _admit(self, waiting: Iterator[Work], rows: list[_Row]) -> bool:
        """Fills free slots up to the prefill budget; True when no work is left."""
        budget = self._max_prefill_tokens
        while len(rows) < self._runtime.num_slots and budget > 0:
            work = next(waiting, None)
            if work is None:
                return True
            prompt_length = len(work.visual_tokens) + len(work.prompt_ids)
            # The last token chosen is never fed back, so it needs no place in the slot.
            fits = prompt_length + work.max_new_tokens - 1 <= self._runtime.capacity
            assert fits, "the prompt and the caption do not fit in a cache slot"
            row = _Row(work)
            if work.temperature > 0:
                row.uniforms = row_uniforms(work.seed, work.max_new_tokens)
            rows.append(row)
            budget -= prompt_length
        return False

    def _step(self, rows: list[_Row]) -> Iterator[Completion]:
        """One decoder call for all rows; yields those that finish and frees their slots."""
        want_logits = any(row.uniforms is not None for row in rows)
        batch = self._build_batch(rows)
        result = self._runtime.step(batch, want_logits)
        self.stats.num_steps += 1
        finished = []
        for index, row in enumerate(rows):
            row.length += int(batch.query_lengths[index])
            token = int(result.greedy_ids[index])
            if row.uniforms is not None and result.logits is not None:
                token = sample_top_p(
                    result.logits[index],
                    float(row.uniforms[len(row.ids)]),
                    row.work.temperature,
                    row.work.top_p,
                )
            row.ids.append(token)
            reason = self._finish_reason(row)
            if reason is not None:
                finished.append((index, reason))
        # From the last slot down, so that a slot moved into a gap is never one that finished too.
        for index, reason in reversed(finished):
            row = self._release(rows, index)
            ids = row.ids[:-1] if row.ids[-1] == self._eos_id else row.ids
            yield Completion(row.work.key, tuple(ids), len(row.ids), reason)

    def _build_batch(self, rows: list[_Row]) -> StepBatch:
        ids: list[int] = []
        lengths, visual, visual_index, logit_index = [], [], [], []
        for row in rows:
            start = len(ids)
            if row.prefilled:
                ids.append(row.ids[-1])
                self.stats.num_decode_tokens += 1
            else:
                prefix = len(row.work.visual_tokens)
                visual.append(row.work.visual_tokens)
                visual_index.append(np.arange(start, start + prefix))
                ids += [0] * prefix
                ids += row.work.prompt_ids
                self.stats.num_prefill_tokens += len(ids) - start
            lengths.append(len(ids) - start)
            logit_index.append(len(ids) - 1)
        width = self._runtime.token_width
        return StepBatch(
            token_ids=np.array(ids, np.int64),
            query_lengths=np.array(lengths, np.int32),
            past_lengths=np.array([row.length for row in rows], np.int32),
            visual_tokens=np.concatenate(visual) if visual else np.zeros((0, width), np.float32),
            visual_index=np.concatenate(visual_index) if visual else np.zeros(0, np.int64),
            logit_index=np.array(logit_index, np.int64),
        )

    def _finish_reason(self, row: _Row) -> Literal["eos", "length"] | None:
        if row.ids[-1] == self._eos_id or row.ids[-1] in self._stop_ids:
            return "eos"
        return "length" if len(row.ids) == row.work.max_new_tokens else None

    def _release(self, rows: list[_Row], index: int) -> _Row:
        """Takes a row out; the last active slot fills the gap."""
        row, last = rows[index], len(rows) - 1
        if index != last:
            self._runtime.move_slot(last, index)
            rows[index] = rows[last]
        rows.pop()
        return row
