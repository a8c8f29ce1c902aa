"""One caption being written: what it brings to a decoder step, and what it takes from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from altogether_rt.generation.sampling import row_uniforms, sample_top_p
from altogether_rt.runtime.base import StepResult, StepRow
from altogether_rt.speculation.drafter import MAX_DRAFT, Draft
from altogether_rt.speculation.planner import DraftPlanner, Guesser

__all__ = ["Completion", "EndTokens", "FinishReason", "Row", "Work"]

FinishReason = Literal["eos", "length"]


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
    alt_ids: Sequence[int] = ()  # what the caption may copy: guesses are made from it
    embedding: NDArray[np.float32] | None = None  # (E,) of the picture: for guesses too

    @property
    def prompt_length(self) -> int:
        return len(self.visual_tokens) + len(self.prompt_ids)


@dataclass(frozen=True)
class Completion:
    """A written caption: its token ids without EOS."""

    key: int
    ids: tuple[int, ...]
    num_tokens: int  # chosen tokens, EOS included
    finish_reason: FinishReason


@dataclass(frozen=True)
class EndTokens:
    """Tokens that end a caption: EOS, which is left out of it, and stop tokens, which stay."""

    eos_id: int
    stop_ids: frozenset[int] = frozenset()


class Row:
    """The state of one active slot."""

    def __init__(self, work: Work, ends: EndTokens) -> None:
        self.work = work
        self.length = 0  # tokens in the slot's cache; what is behind them there does not count
        self.ids: list[int] = []
        self._ends = ends
        self._guesser: Guesser | None = None
        self._uniforms: NDArray[np.float64] | None = None
        if work.temperature > 0:
            self._uniforms = row_uniforms(work.seed, work.max_new_tokens)

    @property
    def prefilled(self) -> bool:
        return self.length > 0

    @property
    def num_pending(self) -> int:
        """Tokens that its next step must bring: the prompt, later the last token written."""
        return 1 if self.prefilled else self.work.prompt_length

    def step_row(self, draft_tokens: Sequence[int]) -> StepRow:
        """What its next step brings: the prompt, later the last token written, then `draft_tokens`.

        A next token is chosen after the prompt or last token, and after each draft token.
        """
        num_choices = 1 + len(draft_tokens)
        if self.prefilled:
            return StepRow((self.ids[-1], *draft_tokens), self.length, None, num_choices)
        ids = (*self.work.prompt_ids, *draft_tokens)
        return StepRow(ids, 0, self.work.visual_tokens, num_choices)

    @property
    def sampled(self) -> bool:
        return self._uniforms is not None

    def propose(self, planner: DraftPlanner, min_reached: float, max_chunk: int) -> Draft:
        """Guesses of the next tokens.

        No more than could be written, so that a slot never holds more than plain decoding puts
        there; and no more than the runtime takes in one step (`max_chunk`) beside what must come.
        """
        if self._guesser is None:
            self._guesser = Guesser(planner, self.work.alt_ids, self.work.embedding)
        to_write = self.work.max_new_tokens - len(self.ids)
        limit = min(MAX_DRAFT, to_write - 1, max_chunk - self.num_pending)
        return self._guesser.propose(self.ids, max(limit, 0), min_reached)

    def observe(self, draft: Draft | None, num_written: int, finished: bool) -> None:
        """Learn how good the guesses for the last `num_written` tokens were, verified or not.

        draft: None where no guesses were looked for; then nothing is learnt either.
        """
        if self._guesser is None or draft is None:
            return
        self._guesser.observe(draft, self.ids[len(self.ids) - num_written :])
        if finished:
            self._guesser.finish(self.ids)

    def take(
        self, result: StepResult, place: int, guesses: Sequence[int]
    ) -> tuple[int, FinishReason | None]:
        """Writes what the model chose: a token, and one more for each leading guess that was right.

        place: of this row's first choice in the result; the others follow it. Returns the number
        of tokens written and, if the caption is finished, why. The caller has put the prompt or the
        last token and the guesses into the slot; `length` becomes what of that is valid.
        """
        before = len(self.ids)
        self.length += self.num_pending
        for guess in (*guesses, None):
            token = self._choose(result, place + len(self.ids) - before)
            self.ids.append(token)
            reason = self._finish_reason()
            if reason is not None or token != guess:
                break
            self.length += 1
        return len(self.ids) - before, reason

    def completion(self, reason: FinishReason) -> Completion:
        """The finished caption."""
        ids = self.ids[:-1] if self.ids[-1] == self._ends.eos_id else self.ids
        return Completion(self.work.key, tuple(ids), len(self.ids), reason)

    def _choose(self, result: StepResult, place: int) -> int:
        if self._uniforms is None or result.logits is None:
            return int(result.greedy_ids[place])
        uniform = float(self._uniforms[len(self.ids)])
        return sample_top_p(result.logits[place], uniform, self.work.temperature, self.work.top_p)

    def _finish_reason(self) -> FinishReason | None:
        if self.ids[-1] == self._ends.eos_id or self.ids[-1] in self._ends.stop_ids:
            return "eos"
        return "length" if len(self.ids) == self.work.max_new_tokens else None
