"""Words kept, removed and added between two texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Change", "change_between", "kept_words", "split_words", "word_distance"]

_WORD: Final = re.compile(r"\w+(?:[-'’.]\w+)*")


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
