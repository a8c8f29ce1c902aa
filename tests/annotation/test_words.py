"""Words kept, removed and added."""

from __future__ import annotations

import random

import pytest

from altogether_rt.annotation.words import (
    Change,
    change_between,
    kept_words,
    split_words,
    word_distance,
)

pytestmark = pytest.mark.lean


@pytest.mark.parametrize(
    ("before", "after", "kept", "removed", "added"),
    [
        ("", "", 0, 0, 0),
        ("", "a red boat", 0, 0, 3),
        ("a red boat", "", 0, 3, 0),
        ("A red boat.", "a red boat", 3, 0, 0),  # case and punctuation are no words
        ("a red boat", "a large blue boat", 2, 1, 2),
        ("one two three", "three one two", 2, 1, 1),  # order counts
        ("St. John’s well-kept harbour", "St. John’s harbour", 3, 1, 0),
    ],
)
def test_changes(before: str, after: str, kept: int, removed: int, added: int) -> None:
    assert change_between(before, after) == Change(kept, removed, added)
    assert word_distance(before, after) == removed + added
    assert sum(kept_words(before, after)) == kept


def longest_common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """By the definition, for short texts."""
    if not one or not other:
        return 0
    if one[0] == other[0]:
        return 1 + longest_common(one[1:], other[1:])
    return max(longest_common(one[1:], other), longest_common(one, other[1:]))


def test_kept_words_are_a_longest_common_subsequence() -> None:
    rng = random.Random(1)
    for _ in range(200):
        one, other = (tuple(rng.choices("abcd", k=rng.randint(0, 7))) for _ in range(2))
        flags = kept_words(" ".join(one), " ".join(other))
        kept = [word for word, is_kept in zip(one, flags, strict=True) if is_kept]
        assert len(kept) == longest_common(one, other)
        left = iter(other)
        assert all(word in left for word in kept)  # in order


def test_words() -> None:
    assert split_words("The “Marigold”, 2 masts – O'Brien's; café") == [
        *("the", "marigold", "2", "masts", "o'brien's", "café"),
    ]
