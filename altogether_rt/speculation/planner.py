"""How many guesses to verify in a step: from how often they were right and what a step costs.

Lengths steer time only. The tokens written are those of plain decoding whatever is decided here, so
decisions may rest on clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from altogether_rt.speculation.drafter import (
    MAX_DRAFT,
    MIN_REACHED,
    NUM_KINDS,
    PRIOR_RATES,
    Draft,
    Drafter,
    PhraseBook,
)
from altogether_rt.speculation.picture_prior import TokenPictures

__all__ = ["Acceptance", "DraftPlanner", "Guesser", "Speculation", "StepCost"]

#: auto: where it is measured to be faster. on: each row as if it were alone. off: never.
Speculation = Literal["auto", "on", "off"]

#: Relative cost of a step, of a row in it and of a token, before anything is measured: OPT-1.3B in
#: int8 on two AVX512 cores.
_DEFAULT_COST = (25.0, 1.3, 4.6)

#: Places of a symmetric 3 × 3 matrix from its diagonal on.
_UPPER = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))

#: With several rows, drafts must promise to be this much faster: estimates are rough.
_MARGIN = 0.03

#: After drafts did not pay, steps with several rows look for none; in the long run looking takes
#: so much of the time, or less, and it is done once in so many steps at least.
_LOOKING_SHARE = 0.01
_MIN_LONGEST_REST = 63

#: Of the looks that find drafts not to pay, one in so many verifies some all the same: what is
#: never done is never measured.
_EXPLORE_EVERY = 4


class Acceptance:
    """How often guesses of each kind are right, with a fading memory.

    A row's estimate starts from what that of all rows (`parent`) is then, theirs from
    `PRIOR_RATES`.
    """

    _PRIOR_WEIGHT = 4.0

    def __init__(self, parent: Acceptance | None = None, memory: float = 0.998) -> None:
        self._parent = parent
        self._memory = memory
        self._right = [0.0] * NUM_KINDS
        self._seen = [0.0] * NUM_KINDS
        self._rates: list[float] = list(PRIOR_RATES if parent is None else parent._rates)

    def of_row(self) -> Acceptance:
        """An estimate for one row, which also teaches this one."""
        return Acceptance(self, memory=0.9)

    def record(self, kind: int, right: bool) -> None:
        """Learn that a guess of `kind` was right or wrong."""
        self._right[kind] = self._right[kind] * self._memory + right
        self._seen[kind] = self._seen[kind] * self._memory + 1
        prior, weight = PRIOR_RATES[kind], self._PRIOR_WEIGHT
        if self._parent is not None:
            self._parent.record(kind, right)
            prior = self._parent._rates[kind]
        self._rates[kind] = (self._right[kind] + weight * prior) / (self._seen[kind] + weight)

    def observe(self, draft: Draft, written: Sequence[int]) -> None:
        """Compare a draft, verified or not, with the tokens that were written in its place."""
        for guess, kind, token in zip(draft.tokens, draft.kinds, written, strict=False):
            self.record(kind, guess == token)
            if guess != token:
                return

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """`rates`, (2, kinds): how often guesses were right, and how often there were any."""
        return {"rates": np.array([self._right, self._seen], np.float32)}

    def from_arrays(self, rates: NDArray[np.float32]) -> None:
        """Know what `to_arrays` gave, and nothing else."""
        self._right, self._seen = rates.tolist()
        weight = self._PRIOR_WEIGHT
        self._rates = [
            (right + weight * prior) / (seen + weight)
            for right, seen, prior in zip(self._right, self._seen, PRIOR_RATES, strict=True)
        ]

    def rate(self, kind: int) -> float:
        """Probability that a guess of `kind` is right, given that those before it are."""
        return self._rates[kind]


class StepCost:
    """Seconds of a decoder step: a constant, and so much for each row and each token.

    Fitted to the last steps measured by least squares, drawn towards the proportions of a default
    where they do not say (plain decoding has as many tokens as rows and cannot tell them apart).
    """

    _MEMORY = 0.98
    _PRIOR_WEIGHT = 0.003
    _MAX_OUTLIER = 3.0
    #: Measurements between two fits, once there are a few: a fit takes as long as a small step.
    _FIT_EVERY = 16

    def __init__(self) -> None:
        self._products = [0.0] * len(_UPPER)  # of the three parts with each other
        self._targets = [0.0] * 3  # of the parts with the seconds measured
        self._num_records = 0
        self._measured = self._predicted = 0.0  # seconds, and the default's units for the same
        self._fitted: tuple[float, float, float] | None = _DEFAULT_COST

    def record(self, rows: int, tokens: int, seconds: float) -> None:
        """Learn from a step without prompts. A step held up by something else counts for less."""
        if seconds <= 0:
            return
        if self._measured:
            seconds = min(seconds, self._MAX_OUTLIER * self.step_s(rows, tokens))
        constant, row, token = _DEFAULT_COST
        parts = (constant, row * rows, token * tokens)
        expected = sum(parts)
        # Relative errors count: a big step must not drown the small ones.
        weight, memory = 1 / expected**2, self._MEMORY
        # Plain numbers: NumPy takes longer to call than these take to compute.
        self._products = [
            memory * product + weight * parts[i] * parts[j]
            for product, (i, j) in zip(self._products, _UPPER, strict=True)
        ]
        self._targets = [
            memory * target + weight * seconds * part
            for target, part in zip(self._targets, parts, strict=True)
        ]
        self._measured = memory * self._measured + seconds / expected
        self._predicted = memory * self._predicted + 1
        self._num_records += 1
        if self._num_records <= self._FIT_EVERY or self._num_records % self._FIT_EVERY == 0:
            self._fitted = None

    def step_s(self, rows: int, tokens: int) -> float:
        """Expected seconds of a step (in arbitrary units before the first measurement)."""
        constant, row, token = self._coefficients()
        return constant + row * rows + token * tokens

    @property
    def token_s(self) -> float:
        """Expected seconds that one more token adds."""
        return self._coefficients()[2]

    def _coefficients(self) -> tuple[float, float, float]:
        if self._fitted is None:
            scale = self._measured / self._predicted
            weight = self._PRIOR_WEIGHT * self._predicted
            products = weight * np.eye(3)
            for product, (i, j) in zip(self._products, _UPPER, strict=True):
                products[i, j] += product
                products[j, i] = products[i, j]
            solution = np.linalg.solve(products, np.array(self._targets) + weight * scale)
            factors = np.maximum(solution, 0.02 * scale)
            constant, row, token = (factors * _DEFAULT_COST).tolist()
            self._fitted = constant, row, token
        return self._fitted


class DraftPlanner:
    """Decides which rows verify how many guesses. What it has learnt may outlive an engine."""

    def __init__(self) -> None:
        self.cost = StepCost()
        self.acceptance = Acceptance()
        self.phrases = PhraseBook()
        self.pictures = TokenPictures()
        self._draft_s = 0.0  # seconds that looking for a row's guesses takes, without verification
        self._rest = 0  # length of the current pause from drafting
        self._pause = 0  # steps of it still to come
        self._fruitless = 0  # plans without drafts, since the last with some

    def wants_drafts(self, mode: Speculation, rows: int) -> bool:
        """Whether this step is worth looking for drafts; ask once a step."""
        if mode == "off" or rows == 0:
            return False
        if mode == "on" or rows == 1 or self._pause == 0:
            return True
        self._pause -= 1
        return False

    def min_reached(self, mode: Speculation, rows: int) -> float:
        """A guess that is less likely to be reached than this cannot pay."""
        together = 1 if mode == "on" else rows
        return self.cost.token_s * together / self.cost.step_s(together, together)

    def record_drafting(self, rows: int, seconds: float) -> None:
        """Learn how long it took to look for guesses for `rows` rows."""
        each_s = seconds / rows
        self._draft_s = self._draft_s + 0.1 * (each_s - self._draft_s) if self._draft_s else each_s

    def lengths(self, mode: Speculation, gains: Sequence[Sequence[float]]) -> list[int]:
        """Guesses to verify for each row; `gains`: those of their drafts."""
        if mode == "on" or len(gains) == 1:
            return self._each_alone(gains)
        rows, lengths = len(gains), self._together(gains)
        if any(lengths):
            self._rest = self._fruitless = 0
            return lengths
        looking_s, step_s = rows * self._draft_s, self.cost.step_s(rows, rows)
        longest = max(_MIN_LONGEST_REST, int(looking_s / (_LOOKING_SHARE * step_s)))
        self._rest = self._pause = min(2 * self._rest + 1, longest)
        self._fruitless += 1
        return lengths if self._fruitless % _EXPLORE_EVERY else self._each_alone(gains)

    def _each_alone(self, gains: Sequence[Sequence[float]]) -> list[int]:
        return [self._together([row])[0] for row in gains]

    def _together(self, gains: Sequence[Sequence[float]]) -> list[int]:
        """The lengths with most expected tokens a second, in one step of all rows.

        The likeliest guesses first, as long as a guess earns more for its time than the step does.
        """
        rows = len(gains)
        plain_s, token_s = self.cost.step_s(rows, rows), self.cost.token_s
        lengths, tokens, seconds = [0] * rows, float(rows), plain_s
        # Gains fall along a row: any leading part of this order holds leading parts of the rows.
        ordered = sorted(
            ((gain, row) for row, listed in enumerate(gains) for gain in listed),
            key=lambda pair: -pair[0],
        )
        for gain, row in ordered:
            if gain * seconds <= tokens * token_s:
                break
            lengths[row] += 1
            tokens += gain
            seconds += token_s
        if rows > 1:  # a row alone has already been drafted for: only what comes counts
            seconds = (seconds + rows * self._draft_s) * (1 + _MARGIN)
        return lengths if tokens * plain_s >= rows * seconds else [0] * rows


class Guesser:
    """Guesses for one caption, which teaches the planner about those to come."""

    def __init__(
        self,
        planner: DraftPlanner,
        alt_ids: Sequence[int],
        embedding: NDArray[np.float32] | None,
    ) -> None:
        """embedding: (E,), of the caption's picture, where that is known."""
        self._pictures, self._embedding = planner.pictures, embedding
        self._drafter = Drafter(alt_ids, planner.phrases, planner.pictures.weights(embedding))
        self._acceptance = planner.acceptance.of_row()

    def propose(
        self, ids: Sequence[int], limit: int = MAX_DRAFT, min_reached: float = MIN_REACHED
    ) -> Draft:
        """At most `limit` guesses of what follows `ids`, the caption so far; see `Drafter`."""
        return self._drafter.propose(ids, self._acceptance.rate, limit, min_reached)

    def observe(self, draft: Draft, written: Sequence[int]) -> None:
        """Learn how good `draft` was, verified or not, from what was written in its place."""
        self._acceptance.observe(draft, written)

    def finish(self, ids: Sequence[int]) -> None:
        """Learn the phrases of the whole caption, and that its words go with its picture."""
        self._drafter.write(ids)
        self._pictures.learn(self._embedding, ids)
