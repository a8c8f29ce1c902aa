"""Nucleus sampling from the likeliest tokens of each row and the sum over all.

The draw is that of `generation.sampling.sample_top_p`, in float64 from the same logits: the
likeliest tokens in order, ties to the lower id, inverted at a given number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from altogether_rt.runtime.base import UNDECIDED, Sampling

__all__ = ["Likeliest", "draw"]


@dataclass(frozen=True)
class Likeliest:
    """The tokens with the largest logits of each row, in any order, K of them."""

    values: NDArray[np.float32]  # (L, K) their logits
    ids: NDArray[np.int64]  # (L, K)
    totals: NDArray[np.float64]  # (L,) of exp((logit - largest) / temperature) over all tokens


def draw(
    likeliest: Likeliest, sampling: Sampling, greedy_ids: NDArray[np.int64], vocab_size: int
) -> NDArray[np.int64]:
    """Tokens (L,): greedy ones at temperature 0; `UNDECIDED` where more candidates are needed,
    where a tie may go on beyond them, or where the logits are no numbers."""
    drawn_rows = sampling.temperatures > 0
    temperatures = np.where(drawn_rows, sampling.temperatures, 1.0)[:, None]
    order = np.lexsort((likeliest.ids, -likeliest.values), axis=-1)
    values = np.take_along_axis(likeliest.values, order, -1)
    ids = np.take_along_axis(likeliest.ids, order, -1)
    rows, count = np.arange(len(ids)), ids.shape[1]
    with np.errstate(all="ignore"):  # of rows whose logits are no numbers
        scaled = values.astype(np.float64) / temperatures
        weights = np.exp(scaled - scaled[:, :1]) / likeliest.totals[:, None]
        cumulative = weights.cumsum(axis=-1)
        kept = np.minimum((cumulative < sampling.top_ps[:, None]).sum(-1) + 1, count)
        reached = cumulative[rows, kept - 1]
        drawn = (cumulative <= (sampling.uniforms * reached)[:, None]).sum(-1)
        chosen = ids[rows, np.minimum(drawn, kept - 1)]
        if count == vocab_size:
            decided = np.isfinite(likeliest.totals)
        else:
            whole = values[rows, kept - 1] > values[:, -1]
            decided = whole & (cumulative[:, -1] >= sampling.top_ps)
    found: NDArray[np.int64] = np.where(decided, chosen, UNDECIDED)
    return np.where(drawn_rows, found, greedy_ids)
