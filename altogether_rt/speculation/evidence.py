"""Kinds of evidence that a draft token can rest on, and how often each is right a priori.

A kind is an index below `NUM_KINDS`. Acceptance is estimated for each kind by itself, so that the
candidate with the best evidence is drafted.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "CACHE_KINDS",
    "CAPTION_KINDS",
    "MAX_MATCHED",
    "MAX_NGRAM",
    "NUM_CONFIDENCES",
    "NUM_KINDS",
    "PRIOR_RATES",
    "START_ID",
    "Candidate",
    "Ngrams",
]

#: Longest n-gram that is looked up.
MAX_NGRAM = 3

#: Tokens before a draft token that match the alt-text are counted up to this number.
MAX_MATCHED = 6

#: Confidences of the n-gram cache: equal steps of the follower's share of all that followed.
NUM_CONFIDENCES = 6

# Kinds 0..MAX_MATCHED: the alt-text's next token, by the number of matching tokens before it.
# CAPTION_KINDS + n - 1: an n-gram of the caption itself.
# CACHE_KINDS + (n - 1) * NUM_CONFIDENCES + confidence: an n-gram of the cache.
CAPTION_KINDS = MAX_MATCHED + 1
CACHE_KINDS = CAPTION_KINDS + MAX_NGRAM
NUM_KINDS = CACHE_KINDS + MAX_NGRAM * NUM_CONFIDENCES

#: How often draft tokens of each kind are right before anything has been observed: about the
#: rates that were measured on captions of scenes.
PRIOR_RATES = (
    *(0.15, 0.5, 0.75, 0.75, 0.75, 0.75, 0.75),  # alt-text, by matching tokens
    *(0.1, 0.15, 0.2),  # caption, by length of the n-gram
    *(0.1, 0.3, 0.45, 0.55, 0.65, 0.9),  # cache after one token, by confidence
    *(0.15, 0.3, 0.5, 0.65, 0.8, 0.95),  # after two
    *(0.15, 0.3, 0.45, 0.6, 0.8, 0.95),  # after three
)
assert len(PRIOR_RATES) == NUM_KINDS

#: Precedes a caption's first token in its n-grams.
START_ID = -1

Candidate = tuple[int, int]  # token, kind of evidence
Ngrams = Sequence[tuple[int, ...]]  # the n-grams that a text ends with, longest first
