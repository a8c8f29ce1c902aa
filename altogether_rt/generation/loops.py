"""Finds that a caption has begun to repeat itself: the same tokens, again and again in a row.

The answer depends on the caption's tokens alone, so it is the same with and without speculation,
one at a time and in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["MAX_PASSAGE_TOKENS", "MIN_LOOP_TOKENS", "without_loop"]

#: Longest passage whose repeats are noticed, in tokens: two or three sentences.
MAX_PASSAGE_TOKENS: Final = 64

#: Tokens that all repeats of a passage must have together: "very, very, very" is no loop, nor is a
#: number of some equal digits.
MIN_LOOP_TOKENS: Final = 12


def without_loop(ids: Sequence[int], repeats: int) -> int | None:
    """How many of the first tokens to keep if the last ones are a loop; None if they are none.

    A loop is a passage of at most `MAX_PASSAGE_TOKENS` that ends `ids` and stands at least
    `repeats` times in a row there, with `MIN_LOOP_TOKENS` tokens in all; of several the shortest.
    Its first time is kept. repeats: 0 for none.
    """
    if repeats == 0 or len(ids) < MIN_LOOP_TOKENS:
        return None
    last, max_size = ids[-1], min(MAX_PASSAGE_TOKENS, len(ids) // repeats)
    if last not in ids[-1 - max_size : -1]:  # so of most tokens
        return None
    for size in range(1, max_size + 1):
        if ids[-1 - size] != last:  # most passages are ruled out by one comparison
            continue
        times = max(repeats, -(-MIN_LOOP_TOKENS // size))
        start = len(ids) - size * times
        # Repeats of a passage are what is equal to itself, moved by the passage's length.
        if start >= 0 and list(ids[start + size :]) == list(ids[start:-size]):
            return start + size
    return None
