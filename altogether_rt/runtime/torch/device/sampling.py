"""Nucleus sampling on the device, so that a step brings back ids and no logits.

The draw is that of `generation.sampling.sample_top_p`, computed in float64 from the same logits:
the likeliest tokens in order, ties to the lower id, inverted at a given number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from altogether_rt.runtime.base import UNDECIDED

__all__ = ["MAX_CANDIDATES", "sample"]

#: Likeliest tokens that are sorted. Where they do not reach top_p, the host draws.
MAX_CANDIDATES = 256


def sample(logits: Tensor, uniforms: Tensor, temperatures: Tensor, top_ps: Tensor) -> Tensor:
    """logits (L, vocab); the others (L,) float64, temperature 0 for greedy -> ids (L,) int64.

    `UNDECIDED` where more candidates are needed, or the logits are no numbers.
    """
    greedy = logits.argmax(dim=-1)
    temperature = torch.where(temperatures > 0, temperatures, 1.0)[:, None]
    values, ids = logits.float().topk(min(MAX_CANDIDATES, logits.shape[-1]), dim=-1)
    ids, by_id = ids.sort(dim=-1)
    values, order = values.gather(1, by_id).sort(dim=-1, descending=True, stable=True)
    ids = ids.gather(1, order)
    scaled = values.double() / temperature
    highest = scaled[:, :1]
    total = (logits.double() / temperature - highest).exp().sum(dim=-1, keepdim=True)
    cumulative = ((scaled - highest).exp() / total).cumsum(dim=-1)
    every = cumulative.shape[1] == logits.shape[-1]
    below = cumulative < top_ps[:, None]
    kept = (below.sum(dim=-1) + 1).clamp(max=cumulative.shape[1])
    reached = cumulative.gather(1, kept[:, None] - 1)
    drawn = (cumulative <= uniforms[:, None] * reached).sum(dim=-1)
    chosen = ids.gather(1, torch.minimum(drawn, kept - 1)[:, None])[:, 0]
    decided = (cumulative[:, -1] >= top_ps) | (torch.isfinite(total[:, 0]) if every else False)
    chosen = torch.where(decided, chosen, UNDECIDED)
    return torch.where(temperatures > 0, chosen, greedy)
