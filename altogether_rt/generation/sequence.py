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
from altogether_rt.runtime.base import UNDECIDED, Array, Sampling, StepBatch, StepResult, StepRow
from altogether_rt.speculation.drafter import Draft
from altogether_rt.speculation.planner import DraftPlanner, LearningDrafter

__all__ = ["ActiveSequence", "Completion", "EndTokens", "SequenceRequest", "step_batch"]


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


def step_batch(
    active: Sequence[ActiveSequence],
    token_width: int,
    draft_tokens: Sequence[tuple[int, ...]] | None = None,
) -> StepBatch:
    """The next step of all sequences, the first in slot 0; drawn tokens come with their `Sampling`.

    token_width: W, width of a visual token. draft_tokens: of each sequence; None: there are none.
    """
    drafts = [()] * len(active) if draft_tokens is None else draft_tokens
    sampling = _sampling(active, drafts)
    lengths = [each.length for each in active]
    if 0 in lengths or any(drafts):  # a slot is empty before its prompt is read
        rows = map(ActiveSequence.step_row, active, drafts)
        return StepBatch.from_rows(rows, token_width, sampling)
    return StepBatch.of_tokens([each.last_id for each in active], lengths, token_width, sampling)


def _sampling(
    active: Sequence[ActiveSequence], draft_tokens: Sequence[Sequence[int]]
) -> Sampling | None:
    """What the next tokens of a step are drawn with, in the order of its choices.

    None if all of them are greedy.
    """
    if True not in [sequence.sampled for sequence in active]:
        return None
    drawn: list[tuple[float, float, float]] = []
    for sequence, drafted in zip(active, draft_tokens, strict=True):
        drawn += sequence.draws(1 + len(drafted))
    uniforms, temperatures, top_ps = np.array(drawn).T
    return Sampling(uniforms, temperatures, top_ps)


class ActiveSequence:
    """The state of one active slot."""

    def __init__(self, request: SequenceRequest, ends: EndTokens) -> None:
        self.request = request
        #: Valid tokens in the slot's cache, with those of steps that were begun; anything after
        #: them is ignored.
        self.length = 0
        self.ids: list[int] = []
        #: Which choice of the step that was begun last is the next token, not known yet; None: the
        #: tokens of all steps are known.
        self.awaited: int | None = None
        self.finish_reason: FinishReason | None = None
        #: Whether tokens are sampled, which needs logits, and not chosen greedily.
        self.sampled = request.temperature > 0
        self._ends = ends
        self._drafter: LearningDrafter | None = None
        self._uniforms: list[float] | None = None
        if self.sampled:
            self._uniforms = row_uniforms(request.seed, request.max_new_tokens).tolist()

    @property
    def prefilled(self) -> bool:
        """Whether the prompt is in the cache."""
        return self.length > 0

    @property
    def num_pending(self) -> int:
        """Tokens that the next step must bring: the prompt at first, then the last token."""
        return 1 if self.prefilled else self.request.prompt_length

    @property
    def ended(self) -> bool:
        """Whether no further step is needed: it is finished, or will be by the token awaited."""
        if self.finish_reason is not None:
            return True
        return self.awaited is not None and len(self.ids) + 1 == self.request.max_new_tokens

    @property
    def last_id(self) -> int:
        """The token that a decode step brings; any id while it is awaited."""
        return 0 if self.awaited is not None else self.ids[-1]

    def step_row(self, draft_tokens: Sequence[int]) -> StepRow:
        """What the next step brings: the pending tokens, then `draft_tokens`.

        A next token is chosen after the pending tokens, and after each draft token.
        """
        num_choices = 1 + len(draft_tokens)
        if self.prefilled:
            return StepRow((self.last_id, *draft_tokens), self.length, None, num_choices)
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

    def observe(self, draft: Draft | None, num_written: int) -> None:
        """Learn from the last `num_written` tokens how good their draft was, verified or not.

        draft: None if nothing was drafted in this step; then nothing is learnt.
        """
        if self._drafter is None or draft is None:
            return
        self._drafter.observe(draft, self.ids[len(self.ids) - num_written :])
        if self.finish_reason is not None:
            self._drafter.finish(self.ids)

    def accept(self, result: StepResult, start: int, draft_tokens: Sequence[int]) -> int:
        """Append the token that the model chose, and one more for each accepted draft token.

        start: index in `result` of this row's first choice; the others follow it. draft_tokens:
        those that the step brought, as given to `step_row`. `length` becomes the number of tokens
        in the slot that are valid. Returns how many tokens were appended.
        """
        num_before = len(self.ids)
        self.length += self.num_pending
        for drafted in (*draft_tokens, None):
            token = self.choose(result, start + len(self.ids) - num_before)
            self.append(token)
            if self.finish_reason is not None or token != drafted:
                break
            self.length += 1
        return len(self.ids) - num_before

    def await_choice(self, choice: int) -> None:
        """A step with `step_row` was begun; the next token is its choice of this index."""
        self.length += 1 if self.length else self.request.prompt_length
        self.awaited = choice

    def take_back(self) -> None:
        """The step begun last was given a wrong token of this row: the next one brings it again."""
        self.length -= 1
        self.awaited = None

    def append(self, token: int) -> None:
        """Append the next token; sets `finish_reason` if it is the last one."""
        ids, request = self.ids, self.request
        ids.append(token)
        if token == self._ends.eos_id or token in self._ends.stop_ids:
            self.finish_reason = "eos"
        elif request.loop_repeats and without_loop(ids, request.loop_repeats) is not None:
            self.finish_reason = "loop"
        elif len(ids) == request.max_new_tokens:
            self.finish_reason = "length"

    def choose(self, result: StepResult, index: int) -> int:
        """The token that a step chose or, if it left that to the caller, draw it."""
        if self._uniforms is None:
            return int(result.greedy_ids[index])
        if result.sampled_ids is not None and result.sampled_ids[index] != UNDECIDED:
            return int(result.sampled_ids[index])
        assert result.logits is not None
        uniform, request = self._uniforms[len(self.ids)], self.request
        return sample_top_p(result.logits[index], uniform, request.temperature, request.top_p)

    def draws(self, count: int) -> list[tuple[float, float, float]]:
        """What each of the next `count` tokens is drawn with: uniform, temperature, top_p."""
        if self._uniforms is None:
            return [(0.0, 0.0, 0.0)] * count
        first = len(self.ids) + (self.awaited is not None)
        temperature, top_p = self.request.temperature, self.request.top_p
        return [(each, temperature, top_p) for each in self._uniforms[first : first + count]]

    def completion(self) -> Completion:
        """The finished caption."""
        reason = self.finish_reason
        assert reason is not None
        ids = self.ids[:-1] if self.ids[-1] == self._ends.eos_id else self.ids
        if reason == "loop":
            ids = ids[: without_loop(ids, self.request.loop_repeats)]
        return Completion(self.request.key, tuple(ids), len(self.ids), reason)
