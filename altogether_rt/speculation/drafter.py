"""Guesses of a caption's next tokens, one after the other, each from the best evidence there is.

- The *alt-text*: a re-aligned caption copies runs of it, with insertions and deletions between
  them. A cursor stands at its next token; when the caption leaves the alt-text, the last three, two
  or one tokens find the place where it goes on, near the cursor if there are several.
- The *caption* itself, where the last tokens were written before.
- *Phrases*: what followed the last tokens in other captions of the same captioner. Of several
  followers, those that the alt-text holds and the caption still lacks are likelier, and those that
  go with the picture: "a large orange" goes on with the alt-text's "hat", wherever that stands in
  it, and in front of a boat with "boat".

A decoder step then verifies several guesses at once; a wrong one costs time and changes no token.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from altogether_rt.config import MAX_GUESSES

__all__ = ["MAX_DRAFT", "MIN_REACHED", "NUM_KINDS", "PRIOR_RATES", "Draft", "Drafter", "PhraseBook"]

#: Most tokens guessed at a time.
MAX_DRAFT = MAX_GUESSES

#: What one more token costs, as a share of a step, where nobody has measured it.
MIN_REACHED = 0.05

#: Tokens that are looked up, at most.
_MAX_NGRAM = 3

#: Tokens before a guess that agree with the alt-text, counted up to here: the evidence for it.
_MAX_AGREEING = 6

#: How far from the cursor a single token may find its place: further off it is chance.
_SINGLE_REACH = 8

#: What follows a phrase, at most; and how often it did, counted up to here.
_MAX_FOLLOWERS = 32
_MAX_TIMES = 1000

#: A phrase written so often says enough; one written less may give way to its shorter ending.
_MIN_TIMES = 4

#: In a file, what followed a phrase a single time is left out of one written so often.
_TIMES_TO_DROP_SINGLES = 8

#: So many times likelier is a follower that the alt-text holds and the caption still lacks.
_LACKING_WEIGHT = 10.0

#: Weight of whatever else might follow.
_UNSEEN_WEIGHT = 3.0

#: Stands before a caption's first token, as if it were one; and for none at all.
_START, _NO_TOKEN = -1, -2

# Kinds of evidence, counted through: agreeing tokens in the alt-text; n-grams of the caption;
# n-grams of phrases, times how much likelier the guess is than all else that followed them.
_CAPTION_KINDS = _MAX_AGREEING + 1
_PHRASE_KINDS = _CAPTION_KINDS + _MAX_NGRAM
_NUM_SURENESS = 6
NUM_KINDS = _PHRASE_KINDS + _MAX_NGRAM * _NUM_SURENESS

#: How often guesses of each kind are right, where nothing has been observed yet: about what was
#: observed in captions of scenes.
PRIOR_RATES = (
    *(0.15, 0.5, 0.75, 0.75, 0.75, 0.75, 0.75),  # alt-text, by agreeing tokens
    *(0.1, 0.15, 0.2),  # caption, by length of the n-gram
    *(0.1, 0.3, 0.45, 0.55, 0.65, 0.9),  # phrases after one token, by sureness
    *(0.15, 0.3, 0.5, 0.65, 0.8, 0.95),  # after two
    *(0.15, 0.3, 0.45, 0.6, 0.8, 0.95),  # after three
)
assert len(PRIOR_RATES) == NUM_KINDS

_NO_WEIGHTS: Mapping[int, float] = {}
_NO_TOKENS: Set[int] = frozenset()

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
        #: n-gram -> token -> times; of a plain dictionary, finding the oldest gets slower.
        self._followers: OrderedDict[tuple[int, ...], dict[int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._followers)

    def learn(self, ngrams: _Ngrams, token: int) -> None:
        """`token` was written behind `ngrams`."""
        for ngram in ngrams:
            followers = self._followers.setdefault(ngram, {})
            followers[token] = followers.get(token, 0) + 1
            if followers[token] > _MAX_TIMES:
                halved = {other: times // 2 for other, times in followers.items() if times > 1}
                self._followers[ngram] = halved
            elif len(followers) > _MAX_FOLLOWERS:
                del followers[min(followers, key=lambda other: (followers[other], other == token))]
        while len(self._followers) > self._max_phrases:
            self._followers.popitem(last=False)

    def to_arrays(self) -> dict[str, NDArray[np.int32]]:
        """Phrases that say enough: `ngrams`, (N, 3), filled up with -2 on the left; how many
        followers each has, `num_followers`, (N,); and these, `followers`, (F, 2), token and times.
        """
        ngrams, num_followers, rows = [], [], []
        for ngram, followers in self._followers.items():
            times_known = sum(followers.values())
            if times_known < _MIN_TIMES:
                continue
            least = 1 if times_known < _TIMES_TO_DROP_SINGLES else 2
            listed = [item for item in followers.items() if item[1] >= least]
            ngrams.append((*(_NO_TOKEN,) * (_MAX_NGRAM - len(ngram)), *ngram))
            num_followers.append(len(listed))
            rows += listed
        return {
            "ngrams": np.array(ngrams, np.int32).reshape(-1, _MAX_NGRAM),
            "num_followers": np.array(num_followers, np.int32),
            "followers": np.array(rows, np.int32).reshape(-1, 2),
        }

    def from_arrays(
        self,
        ngrams: NDArray[np.int64],
        num_followers: NDArray[np.int64],
        followers: NDArray[np.int64],
    ) -> None:
        """Know what `to_arrays` gave, and nothing else."""
        rows = iter(followers.tolist())
        self._followers = OrderedDict()
        for ngram, number in zip(ngrams.tolist(), num_followers.tolist(), strict=True):
            key = tuple(token for token in ngram if token != _NO_TOKEN)
            listed = dict(itertools.islice(rows, number))
            if key and listed:
                self._followers[key] = listed

    def guesses(
        self,
        ngrams: _Ngrams,
        lacking: Set[int] = _NO_TOKENS,
        weights: Mapping[int, float] = _NO_WEIGHTS,
    ) -> list[_Guess]:
        """The likeliest follower of the longest of `ngrams` that is known, and, if that was seen
        too seldom to say much, of the longest that is known well.

        lacking: tokens of the alt-text that the caption has not. weights: how much likelier the
        picture makes a token, 1 where it is not among them.
        """
        guesses: list[_Guess] = []
        for ngram in ngrams:
            followers = self._followers.get(ngram)
            if followers is None:
                continue
            times_known = sum(followers.values())
            if guesses and times_known < _MIN_TIMES:
                continue
            most, total = -1.0, _UNSEEN_WEIGHT
            for token, times in followers.items():
                weight = times * weights.get(token, 1.0)
                if token in lacking:
                    weight *= _LACKING_WEIGHT
                total += weight
                if weight > most:
                    most, best = weight, token
            sureness = int(_NUM_SURENESS * most / total)
            guesses.append((best, _PHRASE_KINDS + (len(ngram) - 1) * _NUM_SURENESS + sureness))
            if times_known >= _MIN_TIMES:
                break
        return guesses


class Drafter:
    """Guesses for one caption; a function of alt-text, picture, tokens written and phrases."""

    def __init__(
        self,
        alt_ids: Sequence[int],
        phrases: PhraseBook | None = None,
        weights: Mapping[int, float] = _NO_WEIGHTS,
    ) -> None:
        """weights: how much likelier the picture makes tokens (`TokenPictures.weights`)."""
        self._alt = tuple(alt_ids)
        self._alt_places = _places_after_ngrams(self._alt)
        self._cursor = 0  # the alt-text's place that is expected next
        self._agreeing = 0  # tokens before the cursor that agree with the last ones written
        self._phrases = PhraseBook() if phrases is None else phrases
        self._weights = weights
        self._lacking = set(self._alt)  # its tokens that the caption has not
        self._written = [_START]
        self._latest: dict[tuple[int, ...], int] = {}  # n-gram -> token after it in the caption

    @property
    def cursor(self) -> int:
        """Place in the alt-text that the caption is expected to go on with."""
        return self._cursor

    def write(self, written: Sequence[int]) -> None:
        """Takes note of the caption so far: what it was at the last call, and what was added."""
        ngrams = _last_ngrams(self._written)
        for token in written[len(self._written) - 1 :]:
            self._phrases.learn(ngrams, token)
            for ngram in ngrams:
                self._latest[ngram] = token
            self._written.append(token)
            self._lacking.discard(token)
            ngrams = _last_ngrams(self._written)
            self._cursor, self._agreeing = self._follow(
                self._written, ngrams, self._cursor, self._agreeing
            )

    def propose(
        self,
        written: Sequence[int],
        rate: Callable[[int], float],
        limit: int = MAX_DRAFT,
        min_reached: float = MIN_REACHED,
    ) -> Draft:
        """At most `limit` guesses of what follows `written`, the whole caption so far.

        rate: probability that a guess of some kind is right, to choose between guesses.
        min_reached: what one more token costs, as a share of a step. From the second guess on,
        they end where verifying another one costs more than it promises.
        """
        self.write(written)
        text, cursor, agreeing = self._written[-_MAX_AGREEING:], self._cursor, self._agreeing
        lacking = self._lacking.copy()
        ngrams = _last_ngrams(text)
        kinds: list[int] = []
        gains: list[float] = []
        reached, promised = 1.0, 1.0  # of the next guess; tokens of the step, with those so far
        for _ in range(limit):
            likeliest = -1.0
            for guess, evidence in self._guesses(ngrams, cursor, agreeing, lacking):
                probability = rate(evidence)
                if probability > likeliest:
                    likeliest, token, kind = probability, guess, evidence
            reached *= likeliest
            cost = 1 + len(gains) * min_reached
            if likeliest < 0 or (gains and reached * cost < promised * min_reached):
                break
            promised += reached
            text.append(token)
            kinds.append(kind)
            gains.append(reached)
            lacking.discard(token)
            ngrams = _last_ngrams(text)
            cursor, agreeing = self._follow(text, ngrams, cursor, agreeing)
        return Draft(tuple(text[len(text) - len(kinds) :]), tuple(kinds), tuple(gains))

    def _guesses(
        self, ngrams: _Ngrams, cursor: int, agreeing: int, lacking: Set[int]
    ) -> list[_Guess]:
        guesses = []
        if cursor < len(self._alt):
            guesses.append((self._alt[cursor], agreeing))
        for ngram in ngrams:
            token = self._latest.get(ngram)
            if token is not None:
                guesses.append((token, _CAPTION_KINDS + len(ngram) - 1))
                break
        return guesses + self._phrases.guesses(ngrams, lacking, self._weights)

    def _follow(
        self, text: list[int], ngrams: _Ngrams, cursor: int, agreeing: int
    ) -> tuple[int, int]:
        """The cursor behind the alt-text's tokens that end `text`, and how many agree there.

        ngrams: the last ones of `text`.
        cursor, agreeing: what they were before the last token of `text`.
        """
        if agreeing >= _MAX_NGRAM - 1 and self._alt[cursor : cursor + 1] == (text[-1],):
            return cursor + 1, min(agreeing + 1, _MAX_AGREEING)
        for ngram in ngrams:
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
