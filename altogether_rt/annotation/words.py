"""Words kept, removed and added between two texts, and the names in a text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Change", "change_between", "kept_words", "names_of", "split_words", "word_distance"]

_WORD: Final = re.compile(r"\w+(?:[-'’.]\w+)*")
_SENTENCE_END: Final = re.compile(r"[.!?:|]\s+$")

#: Words that are often capitalised, at the beginning of a sentence or in a title, and no names.
_FIRST_WORDS: Final = """
    a an and another at by close-up closeup each few for four from he her here his how i image in
    is it its left many my no of old on one our over photo photograph picture portrait right
    screenshot several she some that the their there these they this three to two under view we
    what when where with you young your
"""
_NOT_NAMES: Final = frozenset(_FIRST_WORDS.split())


@dataclass(frozen=True)
class Change:
    """Numbers of words kept, removed and added."""

    kept: int
    removed: int
    added: int


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return _WORD.findall(text.casefold())


def change_between(before: str, after: str) -> Change:
    """Compare two texts; the longest common subsequence of words is kept."""
    old, new = split_words(before), split_words(after)
    kept = int(_common_lengths(old, new)[-1, -1])
    return Change(kept, len(old) - kept, len(new) - kept)


def word_distance(one: str, other: str) -> int:
    """Number of words to remove and add to turn one text into the other."""
    change = change_between(one, other)
    return change.removed + change.added


def kept_words(before: str, after: str) -> list[bool]:
    """For each word of `before`, whether it is kept in `after`."""
    old, new = split_words(before), split_words(after)
    lengths = _common_lengths(old, new)
    kept = [False] * len(old)
    row, column = len(old), len(new)
    while row and column:
        if lengths[row, column] == lengths[row - 1, column]:
            row -= 1
        elif lengths[row, column] == lengths[row, column - 1]:
            column -= 1
        else:
            row, column = row - 1, column - 1
            kept[row] = True
    return kept


def _common_lengths(old: Sequence[str], new: Sequence[str]) -> NDArray[np.int32]:
    """(len(old) + 1, len(new) + 1): longest common subsequence lengths of all pairs of prefixes."""
    codes = {word: code for code, word in enumerate(dict.fromkeys((*old, *new)))}
    new_codes = np.array([codes[word] for word in new], np.int64)
    lengths = np.zeros((len(old) + 1, len(new) + 1), np.int32)
    for row, word in enumerate(old):
        above = lengths[row]
        taken = np.maximum(above[1:], above[:-1] + (new_codes == codes[word]))
        np.maximum.accumulate(taken, out=lengths[row + 1, 1:])
    return lengths


def names_of(text: str) -> list[str]:
    """Words that look like names: capitalised, and not only because they begin a sentence.

    A heuristic: in title case every word counts as a name, and names in lower case are missed.
    Words with digits (IMG_2041, 2019) do not count.
    """
    names: dict[str, None] = {}
    words = [(m.start(), m.group()) for m in _WORD.finditer(text)]
    lower = {word for _, word in words if word.islower()}
    for start, word in words:
        if not word[0].isupper() or any(c.isdigit() or c == "_" for c in word):
            continue
        begins = start == 0 or _SENTENCE_END.search(text[:start]) is not None
        is_common = word.casefold() in _NOT_NAMES or (begins and word.casefold() in lower)
        if len(word) > 1 and not is_common:
            names[word] = None
    return list(names)
