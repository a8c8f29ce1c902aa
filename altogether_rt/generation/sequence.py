"""One caption being generated: what it brings to a decoder step, and what it takes from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from altogether_rt.captions import FinishReason
from altogether_rt.config import MAX_DRAFT_TOKENS
from altogether_rt.generation.loops import without_loop
from altogether_rt.generation.sampling import row_uniforms, sample_top_p
from altogether_rt.runtime.base import Array, Sampling, StepResult, StepRow
from altogether_rt.speculation.drafter import Draft
from altogether_rt.speculation.planner import DraftPlanner, LearningDrafter

__all__ = ["ActiveSequence", "Completion", "EndTokens", "SequenceRequest", "sampling_of"]


@dataclass(frozen=True)
class SequenceRequest:
    """One caption to generate."""

    key: int  # returned with the completion
    visual_tokens: Array  # (P, W)
    prompt_ids: Sequence[int]  # after the visual tokens
    max_new_tokens: int
    seed: int = 0
    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0
    alt_ids: Sequence[int] = ()  # the alt-text, which the caption may copy: for drafting
    embedding: Callable[[], NDArray[np.float32]] | None = None  # (E,) of the image: for drafting
    before_ids: Sequence[int] = ()  # before the visual tokens
    between_ids: Sequence[Sequence[int]] = ()  # between equal parts of the visual tokens
    loop_repeats: int = 0  # as in `GenerationConfig`

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt, visual tokens included."""
        fixed = len(self.before_ids) + sum(map(len, self.between_ids))
        return fixed + len(self.visual_tokens) + len(self.prompt_ids)


@dataclass(frozen=True)
class Completion:
    """A finished caption: its token ids without EOS, and of a loop the passage once."""

    key: int
    ids: tuple[int, ...]
    num_tokens: int  # chosen tokens, EOS and repeats included
    finish_reason: FinishReason


@dataclass(frozen=True)
class EndTokens:
    """Tokens that end a caption: EOS, which is left out of it, and stop tokens, which stay."""

    eos_id: int
    stop_ids: frozenset[int] = frozenset()


def sampling_of(
    active: Sequence[ActiveSequence], draft_tokens: Sequence[Sequence[int]]
) -> Sampling:
    """What the next tokens of a step are drawn with, in the order of its choices."""
    drawn = [
        sequence.draws(1 + len(drafted))
        for sequence, drafted in zip(active, draft_tokens, strict=True)
    ]
    uniforms, temperatures, top_ps = np.concatenate(drawn).T
    return Sampling(uniforms, temperatures, top_ps)


class ActiveSequence:
    """The state of one active slot."""

    def __init__(self, request: SequenceRequest, ends: EndTokens) -> None:
        self.request = request
        self.length = 0  # valid tokens in the slot's cache; anything after them is ignored
        self.ids: list[int] = []
        self._ends = ends
        self._drafter: LearningDrafter | None = None
        self._uniforms: NDArray[np.float64] | None = None
        if request.temperature > 0:
            self._uniforms = row_uniforms(request.seed, request.max_new_tokens)

    @property
    def prefilled(self) -> bool:
        """Whether the prompt is in the cache."""
        return self.length > 0

    @property
    def num_pending(self) -> int:
        """Tokens that the next step must bring: the prompt at first, then the last token."""
        return 1 if self.prefilled else self.request.prompt_length

    @property
    def sampled(self) -> bool:
        """Whether tokens are sampled, which needs logits, and not chosen greedily."""
        return self._uniforms is not None

    def step_row(self, draft_tokens: Sequence[int]) -> StepRow:
        """What the next step brings: the pending tokens, then `draft_tokens`.

        A next token is chosen after the pending tokens, and after each draft token.
        """
        num_choices = 1 + len(draft_tokens)
        if self.prefilled:
            return StepRow((self.ids[-1], *draft_tokens), self.length, None, num_choices)
        request = self.request
        ids = (*request.prompt_ids, *draft_tokens)
        around = request.before_ids, request.between_ids
        return StepRow(ids, 0, request.visual_tokens, num_choices, *around)

    def propose(self, planner: DraftPlanner, token_cost: float, max_chunk: int) -> Draft:
        """Draft the next tokens.

        No more than may still be written, so that a slot never holds more tokens than in plain
        decoding, and no more than the runtime takes in one step (`max_chunk`) beside the pending
        tokens. token_cost: see `Drafter.propose`.
        """
        if self._drafter is None:
            embedding = self.request.embedding
            self._drafter = LearningDrafter(
                planner, self.request.alt_ids, None if embedding is None else embedding()
            )
        num_left = self.request.max_new_tokens - len(self.ids)
        max_tokens = min(MAX_DRAFT_TOKENS, num_left - 1, max_chunk - self.num_pending)
        return self._drafter.propose(self.ids, max(max_tokens, 0), token_cost)

    def observe(self, draft: Draft | None, num_written: int, finished: bool) -> None:
        """Learn from the last `num_written` tokens how good their draft was, verified or not.

        draft: None if nothing was drafted in this step; then nothing is learnt.
        """
        if self._drafter is None or draft is None:
            return
        self._drafter.observe(draft, self.ids[len(self.ids) - num_written :])
        if finished:
            self._drafter.finish(self.ids)

    def accept(
        self, result: StepResult, start: int, draft_tokens: Sequence[int]
    ) -> tuple[int, FinishReason | None]:
        """Append the token that the model chose, and one more for each accepted draft token.

        start: index in `result` of this row's first choice; the others follow it. draft_tokens:
        those that the step brought, as given to `step_row`. `length` becomes the number of tokens
        in the slot that are valid. Returns how many tokens were appended and, if the caption is
        finished, why.
        """
        num_before = len(self.ids)
        self.length += self.num_pending
        for drafted in (*draft_tokens, None):
            token = self._choose(result, start + len(self.ids) - num_before)
            self.ids.append(token)
            reason = self._finish_reason()
            if reason is not None or token != drafted:
                break
            self.length += 1
        return len(self.ids) - num_before, reason

    def draws(self, count: int) -> NDArray[np.float64]:
        """What the next `count` tokens are drawn with: (count, 3) uniform, temperature, top_p."""
        drawn = np.zeros((count, 3))
        if self._uniforms is not None:
            first = len(self.ids)
            drawn[:, 0] = self._uniforms[first : first + count]
            drawn[:, 1:] = self.request.temperature, self.request.top_p
        return drawn

    def completion(self, reason: FinishReason) -> Completion:
        """The finished caption."""
        ids = self.ids[:-1] if self.ids[-1] == self._ends.eos_id else self.ids
        if reason == "loop":
            ids = ids[: without_loop(ids, self.request.loop_repeats)]
        return Completion(self.request.key, tuple(ids), len(self.ids), reason)

    def _choose(self, result: StepResult, index: int) -> int:
        if self._uniforms is None:
            return int(result.greedy_ids[index])
        if result.sampled_ids is not None and result.sampled_ids[index] >= 0:
            return int(result.sampled_ids[index])
        assert result.logits is not None
        uniform = float(self._uniforms[len(self.ids)])
        request = self.request
        return sample_top_p(result.logits[index], uniform, request.temperature, request.top_p)

    def _finish_reason(self) -> FinishReason | None:
        if self.ids[-1] == self._ends.eos_id or self.ids[-1] in self._ends.stop_ids:
            return "eos"
        if without_loop(self.ids, self.request.loop_repeats) is not None:
            return "loop"
        return "length" if len(self.ids) == self.request.max_new_tokens else None
