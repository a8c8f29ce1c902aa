"""Proposes draft tokens for one caption, each from the best evidence available.

- The *alt-text*: a re-aligned caption copies runs of it, with insertions and deletions between
  them. A cursor marks its next token; when the caption leaves the alt-text, the last three, two or
  one tokens are looked up in it to find where the caption continues, nearest to the cursor if they
  occur more than once.
- The *caption* itself, where the last tokens occurred before.
- The *n-gram cache*: what followed the last tokens in other captions of the same captioner.

A decoder step then verifies several draft tokens at once. A rejected one costs time and changes no
token of the caption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

from altogether_rt.config import MAX_DRAFT_TOKENS
from altogether_rt.speculation.evidence import (
    CAPTION_KINDS,
    MAX_MATCHED,
    MAX_NGRAM,
    START_ID,
    Candidate,
    Ngrams,
)
from altogether_rt.speculation.ngram_cache import NO_WEIGHTS, NgramCache

__all__ = ["DEFAULT_TOKEN_COST", "Draft", "Drafter"]

#: Cost of one more token as a fraction of a step, before it has been measured.
DEFAULT_TOKEN_COST = 0.05

#: A single matching token further than this from the cursor is taken for chance.
_MAX_SINGLE_DISTANCE = 8


@dataclass(frozen=True)
class Draft:
    """Proposed next tokens."""

    tokens: tuple[int, ...] = ()
    kinds: tuple[int, ...] = ()  # kind of evidence for each token, below NUM_KINDS
    #: Of each token, the probability that it and all before it are right; non-increasing.
    gains: tuple[float, ...] = ()


class Drafter:
    """Proposes draft tokens for one caption.

    Proposals are a function of alt-text, image, the tokens written so far and the n-gram cache.
    """

    def __init__(
        self,
        alt_ids: Sequence[int],
        ngram_cache: NgramCache | None = None,
        weights: Mapping[int, float] = NO_WEIGHTS,
    ) -> None:
        """weights: factor by which the image makes tokens likelier (`PicturePrior.weights`)."""
        self._alt = tuple(alt_ids)
        self._alt_positions = _positions_after_ngrams(self._alt)
        self._cursor = 0  # position in the alt-text of the token that is expected next
        self._matched = 0  # tokens before the cursor that match the last ones written
        self._ngram_cache = NgramCache() if ngram_cache is None else ngram_cache
        self._weights = weights
        self._missing = set(self._alt)  # its tokens that the caption lacks
        self._written = [START_ID]
        self._latest: dict[tuple[int, ...], int] = {}  # n-gram -> token after it in the caption

    @property
    def cursor(self) -> int:
        """Position in the alt-text at which the caption is expected to continue."""
        return self._cursor

    def update(self, written: Sequence[int]) -> None:
        """Follow the caption to `written`, which extends what the last call was given."""
        ngrams = _last_ngrams(self._written)
        for token in written[len(self._written) - 1 :]:
            self._ngram_cache.learn(ngrams, token)
            for ngram in ngrams:
                self._latest[ngram] = token
            self._written.append(token)
            self._missing.discard(token)
            ngrams = _last_ngrams(self._written)
            self._cursor, self._matched = self._follow(
                self._written, ngrams, self._cursor, self._matched
            )

    def propose(
        self,
        written: Sequence[int],
        rate: Callable[[int], float],
        max_tokens: int = MAX_DRAFT_TOKENS,
        token_cost: float = DEFAULT_TOKEN_COST,
    ) -> Draft:
        """Propose at most `max_tokens` tokens to follow `written`, the whole caption so far.

        rate: probability that a draft token of a kind is right; decides between candidates.
        token_cost: cost of one more token as a fraction of a step. From the second token on, the
        draft ends where verifying one more costs more than it is expected to gain.
        """
        self.update(written)
        text, cursor, matched = self._written[-MAX_MATCHED:], self._cursor, self._matched
        missing = self._missing.copy()
        ngrams = _last_ngrams(text)
        kinds: list[int] = []
        gains: list[float] = []
        reached = 1.0  # probability that the next draft token is right, and all before it
        expected = 1.0  # tokens that the step writes with the draft so far
        for _ in range(max_tokens):
            highest = -1.0
            for candidate, evidence in self._candidates(ngrams, cursor, matched, missing):
                probability = rate(evidence)
                if probability > highest:
                    highest, token, kind = probability, candidate, evidence
            reached *= highest
            cost = 1 + len(gains) * token_cost
            if highest < 0 or (gains and reached * cost < expected * token_cost):
                break
            expected += reached
            text.append(token)
            kinds.append(kind)
            gains.append(reached)
            missing.discard(token)
            ngrams = _last_ngrams(text)
            cursor, matched = self._follow(text, ngrams, cursor, matched)
        return Draft(tuple(text[len(text) - len(kinds) :]), tuple(kinds), tuple(gains))

    def _candidates(
        self, ngrams: Ngrams, cursor: int, matched: int, missing: Set[int]
    ) -> list[Candidate]:
        candidates = []
        if cursor < len(self._alt):
            candidates.append((self._alt[cursor], matched))
        for ngram in ngrams:
            token = self._latest.get(ngram)
            if token is not None:
                candidates.append((token, CAPTION_KINDS + len(ngram) - 1))
                break
        return candidates + self._ngram_cache.candidates(ngrams, missing, self._weights)

    def _follow(
        self, text: list[int], ngrams: Ngrams, cursor: int, matched: int
    ) -> tuple[int, int]:
        """The cursor after the last token of `text`, and how many tokens match before it.

        ngrams: the n-grams that `text` ends with.
        cursor, matched: their values before the last token of `text`.
        """
        if matched >= MAX_NGRAM - 1 and self._alt[cursor : cursor + 1] == (text[-1],):
            return cursor + 1, min(matched + 1, MAX_MATCHED)
        for ngram in ngrams:
            positions = self._alt_positions.get(ngram)
            if positions is None:
                continue
            # A tie goes forward, as captions keep the order of their alt-text.
            nearest = min(positions, key=lambda at: (abs(at - cursor), at < cursor))
            if len(ngram) == 1 and abs(nearest - cursor) > _MAX_SINGLE_DISTANCE:
                continue
            return nearest, self._count_matched(text, nearest, len(ngram))
        return cursor, 0  # an insertion, as far as can be seen: the cursor stays

    def _count_matched(self, text: Sequence[int], position: int, known: int) -> int:
        limit = min(MAX_MATCHED, position, len(text))
        while known < limit and self._alt[position - known - 1] == text[-known - 1]:
            known += 1
        return known


def _last_ngrams(text: list[int]) -> Ngrams:
    last = tuple(text[-MAX_NGRAM:])
    return [last[i:] for i in range(len(last))]


def _positions_after_ngrams(tokens: tuple[int, ...]) -> dict[tuple[int, ...], list[int]]:
    positions: dict[tuple[int, ...], list[int]] = {}
    for end in range(1, len(tokens) + 1):
        for length in range(1, min(MAX_NGRAM, end) + 1):
            positions.setdefault(tokens[end - length : end], []).append(end)
    return positions
