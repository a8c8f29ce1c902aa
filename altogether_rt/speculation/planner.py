"""How many draft tokens to verify in a step, from their acceptance rates and the cost of a step.

The decision affects time only: the tokens written are those of plain decoding in any case, so it
may depend on clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from altogether_rt.config import MAX_DRAFT_TOKENS
from altogether_rt.errors import AltogetherError
from altogether_rt.speculation.drafter import DEFAULT_TOKEN_COST, Draft, Drafter
from altogether_rt.speculation.evidence import NUM_KINDS, PRIOR_RATES
from altogether_rt.speculation.ngram_cache import NgramCache
from altogether_rt.speculation.picture_prior import PicturePrior
from altogether_rt.speculation.step_cost import StepCost

__all__ = ["Acceptance", "DraftPlanner", "LearningDrafter", "Speculation", "check_speculation"]

#: auto: speculate where it is measured to be faster. on: always; the draft of each row is chosen as
#: if it were alone in the step. off: never.
Speculation = Literal["auto", "on", "off"]


def check_speculation(mode: Speculation) -> Speculation:
    """`mode`; raises AltogetherError if it is none."""
    if mode not in get_args(Speculation):
        raise AltogetherError(f"speculation is auto, on or off, not {mode!r}.")
    return mode


#: With several rows, a step with drafts must promise to be faster by this fraction: the estimates
#: are rough.
_MARGIN = 0.03

#: Where drafts do not pay, steps with several rows pause drafting. A pause may grow until drafting
#: takes this fraction of the time, and in any case to this many steps.
_DRAFTING_SHARE = 0.01
_MIN_MAX_PAUSE = 63

#: One in this many plans that find no draft to pay verifies some nevertheless: otherwise its cost
#: would never be measured.
_EXPLORE_EVERY = 4


class Acceptance:
    """Exponentially weighted rate at which draft tokens of each kind are right.

    The estimate for a row starts from that of all rows (`parent`); theirs starts from
    `PRIOR_RATES`.
    """

    _PRIOR_WEIGHT = 4.0

    def __init__(self, parent: Acceptance | None = None, memory: float = 0.998) -> None:
        self._parent = parent
        self._memory = memory
        self._accepted = [0.0] * NUM_KINDS
        self._observed = [0.0] * NUM_KINDS
        self._rates: list[float] = list(PRIOR_RATES if parent is None else parent._rates)

    def for_row(self) -> Acceptance:
        """An estimate for one row, which updates this one too."""
        return Acceptance(self, memory=0.9)

    def record(self, kind: int, accepted: bool) -> None:
        """Record whether a draft token of `kind` was right."""
        self._accepted[kind] = self._accepted[kind] * self._memory + accepted
        self._observed[kind] = self._observed[kind] * self._memory + 1
        prior, weight = PRIOR_RATES[kind], self._PRIOR_WEIGHT
        if self._parent is not None:
            self._parent.record(kind, accepted)
            prior = self._parent._rates[kind]
        self._rates[kind] = (self._accepted[kind] + weight * prior) / (
            self._observed[kind] + weight
        )

    def observe(self, draft: Draft, written: Sequence[int]) -> None:
        """Compare a draft, verified or not, with the tokens that were written instead."""
        for drafted, kind, token in zip(draft.tokens, draft.kinds, written, strict=False):
            self.record(kind, drafted == token)
            if drafted != token:
                return

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """`rates`, (2, NUM_KINDS): weighted counts of right draft tokens, and of all of them."""
        return {"rates": np.array([self._accepted, self._observed], np.float32)}

    def load_arrays(self, rates: NDArray[np.float32]) -> None:
        """Replace the counts by what `to_arrays` returned."""
        self._accepted, self._observed = rates.tolist()
        weight = self._PRIOR_WEIGHT
        self._rates = [
            (accepted + weight * prior) / (observed + weight)
            for accepted, observed, prior in zip(
                self._accepted, self._observed, PRIOR_RATES, strict=True
            )
        ]

    def rate(self, kind: int) -> float:
        """Probability that a draft token of `kind` is right, given that those before it are."""
        return self._rates[kind]


class DraftPlanner:
    """Decides which rows verify how many draft tokens.

    Also holds what all drafters of a captioner share and learn from; it may outlive an engine.
    """

    def __init__(self) -> None:
        self.cost = StepCost()
        self.acceptance = Acceptance()
        self.ngram_cache = NgramCache()
        self.picture_prior = PicturePrior()
        self._draft_s = 0.0  # seconds that drafting for one row takes, without verification
        self._pause_length = 0  # steps of the current pause in drafting
        self._pause_left = 0  # steps of it still to come
        self._num_fruitless = 0  # plans without drafts since the last plan with drafts

    def wants_drafts(self, mode: Speculation, rows: int) -> bool:
        """Whether drafting is worthwhile in this step. Call once a step: it counts down pauses."""
        if mode == "off" or rows == 0:
            return False
        if mode == "on" or rows == 1 or self._pause_left == 0:
            return True
        self._pause_left -= 1
        return False

    def token_cost(self, mode: Speculation, rows: int) -> float:
        """Cost of one more token as a fraction of a step.

        A draft token that is less likely than this to be reached cannot pay.
        """
        together = 1 if mode == "on" else rows
        return self.cost.token_s * together / self.cost.step_s(together, together)

    def record_drafting(self, rows: int, seconds: float) -> None:
        """Record how long drafting for `rows` rows took."""
        each_s = seconds / rows
        self._draft_s = self._draft_s + 0.1 * (each_s - self._draft_s) if self._draft_s else each_s

    def draft_lengths(self, mode: Speculation, gains: Sequence[Sequence[float]]) -> list[int]:
        """Number of draft tokens to verify in each row; gains: `Draft.gains` of each row."""
        if mode == "on" or len(gains) == 1:
            return self._each_alone(gains)
        rows, lengths = len(gains), self._together(gains)
        if any(lengths):
            self._pause_length = self._num_fruitless = 0
            return lengths
        drafting_s, step_s = rows * self._draft_s, self.cost.step_s(rows, rows)
        max_pause = max(_MIN_MAX_PAUSE, int(drafting_s / (_DRAFTING_SHARE * step_s)))
        self._pause_length = self._pause_left = min(2 * self._pause_length + 1, max_pause)
        self._num_fruitless += 1
        return lengths if self._num_fruitless % _EXPLORE_EVERY else self._each_alone(gains)

    def _each_alone(self, gains: Sequence[Sequence[float]]) -> list[int]:
        return [self._together([row])[0] for row in gains]

    def _together(self, gains: Sequence[Sequence[float]]) -> list[int]:
        """The lengths that maximize expected tokens per second, in one step of all rows.

        Takes draft tokens in order of falling gain, as long as a token gains more for its time than
        the step does.
        """
        rows, token_s = len(gains), self.cost.token_s
        lengths, tokens, seconds = [0] * rows, float(rows), self.cost.step_s(rows, rows)
        # Gains fall along a row, so that each prefix of this order holds a prefix of every draft.
        ordered = sorted(
            ((gain, row) for row, row_gains in enumerate(gains) for gain in row_gains),
            key=lambda pair: -pair[0],
        )
        for gain, row in ordered:
            if gain * seconds <= tokens * token_s:
                break
            lengths[row] += 1
            tokens += gain
            seconds += token_s
        if rows > 1:  # a single row has been drafted for in any case: that time is already spent
            seconds = (seconds + rows * self._draft_s) * (1 + _MARGIN)
        pays = tokens * self.cost.plain_s(rows) >= rows * seconds
        return lengths if pays else [0] * rows


class LearningDrafter:
    """Drafter of one caption that shares a planner's knowledge and adds to it."""

    def __init__(
        self,
        planner: DraftPlanner,
        alt_ids: Sequence[int],
        embedding: NDArray[np.float32] | None,
    ) -> None:
        """embedding: (E,), of the image; None where it is not known."""
        self._picture_prior, self._embedding = planner.picture_prior, embedding
        weights = planner.picture_prior.weights(embedding)
        self._drafter = Drafter(alt_ids, planner.ngram_cache, weights)
        self._acceptance = planner.acceptance.for_row()

    def propose(
        self,
        ids: Sequence[int],
        max_tokens: int = MAX_DRAFT_TOKENS,
        token_cost: float = DEFAULT_TOKEN_COST,
    ) -> Draft:
        """Propose at most `max_tokens` tokens to follow `ids`, the caption so far.

        See `Drafter.propose`.
        """
        return self._drafter.propose(ids, self._acceptance.rate, max_tokens, token_cost)

    def observe(self, draft: Draft, written: Sequence[int]) -> None:
        """Update acceptance rates: `written` are the tokens that followed instead of `draft`."""
        self._acceptance.observe(draft, written)

    def finish(self, ids: Sequence[int]) -> None:
        """Learn from the whole caption: its n-grams, and that its tokens go with its image."""
        self._drafter.update(ids)
        self._picture_prior.learn(self._embedding, ids)
