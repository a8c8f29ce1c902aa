"""n-grams, and the check that every caption has references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from altogether_rt.errors import AltogetherError

__all__ = ["check_pairs", "ngrams"]


def ngrams(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    """How often each run of `size` words occurs."""
    return Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1))


def check_pairs(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raises AltogetherError unless every candidate has at least one reference."""
    if len(candidates) != len(references):
        raise AltogetherError(
            f"there are {len(candidates)} captions but references for {len(references)}: "
            "give one list of references for each caption."
        )
    if not candidates or not all(references):
        raise AltogetherError("a caption without a reference cannot be scored.")
