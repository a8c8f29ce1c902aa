"""The workload of the CPU comparison: rows with an image, an alt-text and a caption's length.

Weights are random, so no caption ends by itself: each row brings the length of its caption.
Lengths are distributed like real ones: alt-texts of 0 to 128 tokens, median 15, one in ten empty;
captions of 20 to 190 tokens, mean 80. They follow a low-discrepancy sequence (van der Corput, with
a seeded shift), so that the first eight rows are as typical as all of them.

Rows of real pairs (`convert/real_pairs.py`) bring the captions themselves, for contestants that
draft them.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from statistics import NormalDist

from harness.rows import Row

__all__ = ["VISUAL_TOKENS", "make_rows", "read_rows"]

VISUAL_TOKENS = 40
MAX_ALT_TOKENS = 128
MIN_CAPTION_TOKENS, MAX_CAPTION_TOKENS = 20, 190

_EMPTY_SHARE = 0.1
#: Median of the alt-texts that are not empty, so that the median of all is 15.
_ALT_MEDIAN, _ALT_SIGMA = 17.2, 0.95
_CAPTION_MEDIAN, _CAPTION_SIGMA = 73.0, 0.43
#: Ids below are special in OPT; from here on, any id may occur in an alt-text.
_FIRST_ID = 4


def make_rows(num: int, vocab_size: int, seed: int = 0) -> list[Row]:
    """`num` rows; with the same seed, fewer rows are the first ones of more."""
    rng = random.Random(seed)
    shifts = rng.random(), rng.random()
    rows = []
    for index in range(num):
        alt_share = (_van_der_corput(index, 2) + shifts[0]) % 1
        caption_share = (_van_der_corput(index, 3) + shifts[1]) % 1
        ids = random.Random(f"{seed} {index}")
        length = _alt_tokens(alt_share)
        alt, stand_in = (
            tuple(ids.randrange(_FIRST_ID, vocab_size) for _ in range(count))
            for count in (length, VISUAL_TOKENS)
        )
        rows.append(Row(index, alt, stand_in, _caption_tokens(caption_share)))
    return rows


def read_rows(pairs: Path, num: int) -> list[Row]:
    """The first `num` of real pairs."""
    rows = []
    for index, (alt_ids, caption_ids) in enumerate(json.loads(pairs.read_text("utf-8"))["rows"]):
        stand_in = (_FIRST_ID,) * VISUAL_TOKENS
        rows.append(Row(index, tuple(alt_ids), stand_in, len(caption_ids), tuple(caption_ids)))
    assert num <= len(rows), f"{pairs} holds {len(rows)} rows"
    return rows[:num]


def _alt_tokens(share: float) -> int:
    """The length that a fraction `share` of all alt-texts stays below."""
    if share < _EMPTY_SHARE:
        return 0
    length = _log_normal((share - _EMPTY_SHARE) / (1 - _EMPTY_SHARE), _ALT_MEDIAN, _ALT_SIGMA)
    return min(max(length, 1), MAX_ALT_TOKENS)


def _caption_tokens(share: float) -> int:
    length = _log_normal(share, _CAPTION_MEDIAN, _CAPTION_SIGMA)
    return min(max(length, MIN_CAPTION_TOKENS), MAX_CAPTION_TOKENS)


def _log_normal(share: float, median: float, sigma: float) -> int:
    inside = min(max(share, 1e-6), 1 - 1e-6)
    return round(median * math.exp(sigma * NormalDist().inv_cdf(inside)))


def _van_der_corput(index: int, base: int) -> float:
    value, scale = 0.0, 1.0
    while index:
        scale /= base
        index, digit = divmod(index, base)
        value += digit * scale
    return value
