"""Guesses of a caption's next tokens, one after the other, each from the best evidence there is.

- The *alt-text*: a re-aligned caption copies runs of it, with insertions and deletions between
  them. A cursor stands at its next token; when the caption leaves the alt-text, the last three, two
  or one tokens find the place where it goes on, near the cursor if there are several.
- The *caption* itself, where the last tokens were written before.
- *Phrases*: what followed the last tokens in other captions of the same captioner.
- *Both*: a token of the alt-text that the caption still lacks, and that has followed the last ones
  in other captions. "A large orange" goes on with the alt-text's "hat", wherever that stands in it.

A decoder step then verifies several guesses at once; a wrong one costs time and changes no token.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from altogether_rt.config import MAX_GUESSES

__all__ = ["MAX_DRAFT", "NUM_KINDS", "PRIOR_RATES", "Draft", "Drafter", "PhraseBook"]

#: Most tokens guessed at a time.
MAX_DRAFT = MAX_GUESSES

#: Tokens that are looked up, at most.
_MAX_NGRAM = 3

#: Tokens before a guess that agree with the alt-text, counted up to here: the evidence for it.
_MAX_AGREEING = 6

#: How far from the cursor a single token may find its place: further off it is chance.
_SINGLE_REACH = 8

#: Tokens of the alt-text that the caption lacks, tried at most: a long one must not take longer.
_MAX_LACKING = 24

#: How often a phrase went on the same way, counted up to here.
_MAX_TIMES = 7

#: Stands before a caption's first token, as if it were one.
_START = -1

_NO_TOKENS: frozenset[int] = frozenset()

# Kinds of evidence, counted through: agreeing tokens in the alt-text; n-grams of the caption;
# n-grams of phrases, times how sure they are; alt-text tokens that fit, by n-gram.
_CAPTION_KINDS = _MAX_AGREEING + 1
_PHRASE_KINDS = _CAPTION_KINDS + _MAX_NGRAM
_SURENESS = (0, 0, 1, 1, 2, 2, 2, 3)  # by times
_NUM_SURENESS = 4
_FITTING_KINDS = _PHRASE_KINDS + _MAX_NGRAM * _NUM_SURENESS
NUM_KINDS = _FITTING_KINDS + _MAX_NGRAM - 1

#: How often guesses of each kind are right, where nothing has been observed yet: about what was
#: observed in captions of scenes.
PRIOR_RATES = (
    *(0.15, 0.45, 0.7, 0.75, 0.75, 0.75, 0.75),  # alt-text, by agreeing tokens
    *(0.1, 0.2, 0.4),  # caption, by length of the n-gram
    *(0.15, 0.3, 0.5, 0.8),  # phrases after one token, by sureness
    *(0.3, 0.45, 0.65, 0.85),  # after two
    *(0.3, 0.45, 0.65, 0.9),  # after three
    *(0.35, 0.5),  # fitting after one token, after two
)
assert len(PRIOR_RATES) == NUM_KINDS

_Guess = tuple[int, int]  # token, kind of evidence
_Ngrams = Sequence[tuple[int, ...]]  # that a text ends with, longest first


@dataclass(frozen=True)
class Draft:
    """Guessed next tokens."""

    tokens: tuple[int, ...] = ()
    kinds: tuple[int, ...] = ()  # of each, the kind of evidence it rests on (below NUM_KINDS)
    gains: tuple[float, ...] = ()  # of each, the probability to be reached and right: it falls


class PhraseBook:
    """What followed n-grams in captions; holds the `max_phrases` learnt last, more or less."""

    def __init__(self, max_phrases: int = 50_000) -> None:
        self._max_phrases = max_phrases
        #: n-gram -> token, times; of a plain dictionary, finding the oldest gets slower and slower.
        self._next: OrderedDict[tuple[int, ...], tuple[int, int]] = OrderedDict()
        self._middles: dict[tuple[int, ...], set[int]] = {}  # n-gram -> tokens of `middles`

    def __len__(self) -> int:
        return len(self._next)

    def learn(self, ngrams: _Ngrams, token: int) -> None:
        """`token` was written behind `ngrams`. The token that is written most often prevails."""
        for ngram in ngrams:
            known, times = self._next.get(ngram, (token, 0))
            if not times and len(ngram) > 1:
                self._middles.setdefault(ngram[:-1], set()).add(ngram[-1])
            if known == token:
                self._next[ngram] = (token, min(times + 1, _MAX_TIMES))
            else:
                self._next[ngram] = (known, times - 1) if times > 1 else (token, 1)
        while len(self._next) > self._max_phrases:
            ngram, _ = self._next.popitem(last=False)
            if len(ngram) > 1:
                middles = self._middles[ngram[:-1]]
                middles.remove(ngram[-1])
                if not middles:
                    del self._middles[ngram[:-1]]

    def middles(self, ngram: tuple[int, ...]) -> Set[int]:
        """The tokens that were written behind `ngram`, and something after them."""
        return self._middles.get(ngram, _NO_TOKENS)

    def guess(self, ngrams: _Ngrams) -> _Guess | None:
        """What follows the first of `ngrams` that is known."""
        for ngram in ngrams:
            found = self._next.get(ngram)
            if found is not None:
                token, times = found
                return token, _PHRASE_KINDS + (len(ngram) - 1) * _NUM_SURENESS + _SURENESS[times]
        return None


class Drafter:
    """Guesses for one caption; a function of alt-text, tokens written and phrases."""

    def __init__(self, alt_ids: Sequence[int], phrases: PhraseBook | None = None) -> None:
        self._alt = tuple(alt_ids)
        self._alt_places = _places_after_ngrams(self._alt)
        self._cursor = 0  # the alt-text's place that is expected next
        self._agreeing = 0  # tokens before the cursor that agree with the last ones written
        self._phrases = PhraseBook() if phrases is None else phrases
        self._lacking = dict.fromkeys(self._alt)  # its tokens that the caption has not, in order
        self._written = [_START]
        self._latest: dict[tuple[int, ...], int] = {}  # n-gram -> token after it in the caption

    @property
    def cursor(self) -> int:
        """Place in the alt-text that the caption is expected to go on with."""
        return self._cursor

    def write(self, written: Sequence[int]) -> None:
        """Takes note of the caption so far: what it was at the last call, and what was added."""
        for token in written[len(self._written) - 1 :]:
            ngrams = _last_ngrams(self._written)
            self._phrases.learn(ngrams, token)
            for ngram in ngrams:
                self._latest[ngram] = token
            self._written.append(token)
            self._lacking.pop(token, None)
            self._cursor, self._agreeing = self._follow(self._written, self._cursor, self._agreeing)

    def propose(
        self,
        written: Sequence[int],
        rate: Callable[[int], float],
        limit: int = MAX_DRAFT,
        min_reached: float = 0.05,
    ) -> Draft:
        """At most `limit` guesses of what follows `written`, the whole caption so far.

        rate: probability that a guess of some kind is right, to choose between guesses.
        min_reached: from the second guess on, they end where they are less likely to be reached.
        """
        self.write(written)
        text, cursor, agreeing = self._written[-_MAX_AGREEING:], self._cursor, self._agreeing
        kinds: list[int] = []
        gains: list[float] = []
        reached = 1.0
        for _ in range(limit):
            likeliest = -1.0
            for guess, evidence in self._guesses(text, cursor, agreeing):
                probability = rate(evidence)
                if probability > likeliest:
                    likeliest, token, kind = probability, guess, evidence
            reached *= likeliest
            if likeliest < 0 or (gains and reached < min_reached):
                break
            text.append(token)
            kinds.append(kind)
            gains.append(reached)
            cursor, agreeing = self._follow(text, cursor, agreeing)
        return Draft(tuple(text[len(text) - len(kinds) :]), tuple(kinds), tuple(gains))

    def _guesses(self, text: list[int], cursor: int, agreeing: int) -> list[_Guess]:
        guesses, ngrams = [], _last_ngrams(text)
        if cursor < len(self._alt):
            guesses.append((self._alt[cursor], agreeing))
        for ngram in ngrams:
            token = self._latest.get(ngram)
            if token is not None:
                guesses.append((token, _CAPTION_KINDS + len(ngram) - 1))
                break
        phrase = self._phrases.guess(ngrams)
        if phrase is not None:
            guesses.append(phrase)
        fitting = self._fitting(ngrams[-2:], text)
        if fitting is not None:
            guesses.append(fitting)
        return guesses

    def _fitting(self, ngrams: _Ngrams, text: list[int]) -> _Guess | None:
        """The first token that the caption lacks and that has followed the longest of `ngrams`.

        text: the caption's last tokens, and what has been guessed behind them.
        """
        for ngram in ngrams:
            middles = self._phrases.middles(ngram)
            if not middles:
                continue
            for token in itertools.islice(self._lacking, _MAX_LACKING):
                if token in middles and token not in text:
                    return token, _FITTING_KINDS + len(ngram) - 1
        return None

    def _follow(self, text: list[int], cursor: int, agreeing: int) -> tuple[int, int]:
        """The cursor behind the alt-text's tokens that end `text`, and how many agree there.

        cursor, agreeing: what they were before the last token of `text`.
        """
        if agreeing >= _MAX_NGRAM - 1 and self._alt[cursor : cursor + 1] == (text[-1],):
            return cursor + 1, min(agreeing + 1, _MAX_AGREEING)
        for ngram in _last_ngrams(text):
            places = self._alt_places.get(ngram)
            if places is None:
                continue
            # On a tie forward, as captions keep the order of their alt-text.
            place = min(places, key=lambda place: (abs(place - cursor), place < cursor))
            if len(ngram) == 1 and abs(place - cursor) > _SINGLE_REACH:
                continue
            return place, self._count_agreeing(text, place, len(ngram))
        return cursor, 0  # an insertion, as far as can be seen: the cursor waits

    def _count_agreeing(self, text: Sequence[int], place: int, known: int) -> int:
        most = min(_MAX_AGREEING, place, len(text))
        while known < most and self._alt[place - known - 1] == text[-known - 1]:
            known += 1
        return known


def _last_ngrams(text: list[int]) -> _Ngrams:
    last = tuple(text[-_MAX_NGRAM:])
    return [last[i:] for i in range(len(last))]


def _places_after_ngrams(tokens: tuple[int, ...]) -> dict[tuple[int, ...], list[int]]:
    places: dict[tuple[int, ...], list[int]] = {}
    for end in range(1, len(tokens) + 1):
        for length in range(1, min(_MAX_NGRAM, end) + 1):
            places.setdefault(tokens[end - length : end], []).append(end)
    return places
