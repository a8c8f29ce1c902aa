"""Sampling the next token: nucleus (top-p) sampling at a temperature, reproducible on every run.

Randomness is a function of the row alone: its seed is derived from its pixels, its alt-texts and
the run's seed, and its n-th token uses the n-th number of that seed's stream. Batch size, order and
speculation therefore cannot change a sampled caption.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from altogether_rt.errors import AltogetherError

__all__ = ["row_seed", "row_uniforms", "sample_top_p"]

#: Only tokens of at least the first probability are sorted if they suffice, else of the next.
_FLOORS = (1e-3, 1e-5, 0.0)


def row_seed(content: bytes, alts: Sequence[str], run_seed: int) -> int:
    """A 63-bit seed derived from a row's content, its alt-texts and the run's seed.

    content: `content_hash` of its pixels; a saved embedding comes with it.
    """
    digest = hashlib.blake2b(content, digest_size=8)
    digest.update(repr((run_seed, tuple(alts))).encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest(), "little") >> 1


def row_uniforms(seed: int, count: int) -> NDArray[np.float64]:
    """The row's random numbers in [0, 1), one for each caption token: (count,)."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def sample_top_p(
    logits: NDArray[np.float32], uniform: float, temperature: float, top_p: float
) -> int:
    """Draw from the smallest set of likeliest tokens whose probability reaches `top_p`.

    logits: (vocab,), not yet divided by the temperature (> 0). Ties in probability go to the lower
    id. The draw inverts the cumulative distribution of the kept tokens, likeliest first, at
    `uniform`.
    """
    if np.isnan(logits).any():
        raise AltogetherError(
            "the captioner computes no number for a token (NaN): its weights are damaged, so give "
            "another bundle or checkpoint."
        )
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    weights /= weights.sum()
    for floor in _FLOORS:
        candidates = np.flatnonzero(weights >= floor)
        candidates = candidates[np.argsort(-weights[candidates], kind="stable")]
        cumulative = np.cumsum(weights[candidates])
        if len(cumulative) and cumulative[-1] >= top_p:
            break
    kept = int(np.searchsorted(cumulative, top_p, side="left")) + 1
    kept = min(kept, len(candidates))
    drawn = np.searchsorted(cumulative[:kept], uniform * cumulative[kept - 1], side="right")
    return int(candidates[min(int(drawn), kept - 1)])
