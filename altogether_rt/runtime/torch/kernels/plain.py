"""The kernels' arithmetic in plain PyTorch: their reference, and what runs where Triton cannot."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from altogether_rt.runtime.torch.kernels.slots import (
    HeadLayout,
    LayerSlots,
    PromptRows,
    RaggedRows,
    dequantize,
    quantize,
)

__all__ = ["attend", "attend_prompts", "split_heads", "store"]


def store(
    qkv: Tensor, slots: LayerSlots, prompts: PromptRows, heads: HeadLayout, rotation: Tensor | None
) -> None:
    """Rotate queries and keys of qkv (T, qkv_width) in place and put keys and values in the slots.

    What an 8-bit cache keeps also takes the place of keys and values in `qkv`, so that a token
    sees the same numbers in the step that brings it and in every later one. rotation: see
    `rotation_table`; None: positions are not rotary.
    """
    every = torch.ones(len(qkv), dtype=torch.bool, device=qkv.device)
    _store(qkv, slots, prompts.slots.long(), prompts.positions.long(), every, heads, rotation)


def attend_prompts(qkv: Tensor, prompts: PromptRows, heads: HeadLayout) -> Tensor:
    """Causal attention within each prompt: (T, heads · D). No prompt is padded.

    qkv (T, qkv_width) as `store` leaves it.
    """
    q, k, v = split_heads(qkv, heads)
    out = torch.empty_like(q)
    start = 0
    for length in prompts.lengths:
        stop = start + length
        mixed = F.scaled_dot_product_attention(
            q[None, start:stop].transpose(1, 2),
            k[None, start:stop].transpose(1, 2),
            v[None, start:stop].transpose(1, 2),
            is_causal=True,
            enable_gqa=heads.group > 1,
        )
        out[start:stop] = mixed[0].transpose(0, 1)
        start = stop
    return out.view(len(qkv), -1)


def attend(
    qkv: Tensor, slots: LayerSlots, rows: RaggedRows, heads: HeadLayout, rotation: Tensor | None
) -> Tensor:
    """New tokens of ragged rows against their slots: qkv (T, qkv_width) -> (T, heads · D).

    New keys and values are stored as by `store`; each token then attends to its slot up to itself.
    Of packed tokens that belong to no row the output means nothing.
    """
    index, row, at = rows.tokens()
    new = qkv[index]
    kept = rows.past[row] >= 0
    _store(new, slots, row, at, kept, heads, rotation)
    q, new_keys, new_values = split_heads(new, heads)
    reach = int(at.max()) + 1
    keys = _read(slots.keys, slots.key_scales, row, reach)  # (T, kv_heads, reach, D)
    values = _read(slots.values, slots.value_scales, row, reach)
    idle = ~kept  # sees its new token alone
    keys[idle, :, at[idle]] = new_keys[idle].float()
    values[idle, :, at[idle]] = new_values[idle].float()
    visible = torch.arange(reach, device=qkv.device) <= at[:, None]  # (T, reach)
    mixed = F.scaled_dot_product_attention(
        q.float()[:, :, None],
        keys,
        values,
        attn_mask=visible[:, None, None],
        enable_gqa=heads.group > 1,
    )
    out = torch.zeros(len(qkv), heads.heads * heads.head_dim, dtype=qkv.dtype, device=qkv.device)
    out[index] = mixed.to(qkv.dtype).reshape(len(index), -1)
    return out


def split_heads(qkv: Tensor, heads: HeadLayout) -> tuple[Tensor, Tensor, Tensor]:
    """Views of packed queries (T, heads, D), and of keys and values (T, kv_heads, D)."""
    parts = qkv.view(len(qkv), -1, heads.head_dim)
    turned = heads.heads + heads.kv_heads
    return parts[:, : heads.heads], parts[:, heads.heads : turned], parts[:, turned:]


def _store(
    qkv: Tensor,
    slots: LayerSlots,
    row: Tensor,
    at: Tensor,
    kept: Tensor,
    heads: HeadLayout,
    rotation: Tensor | None,
) -> None:
    """`store` of the tokens that are `kept`; the others are rotated and rounded alone."""
    q, k, v = split_heads(qkv, heads)
    if rotation is not None:
        for part in (q, k):
            part.copy_(_rotate(part.float(), rotation[at][:, None]))
    row, at = row[kept], at[kept]
    for cache, scales, new in (
        (slots.keys, slots.key_scales, k),
        (slots.values, slots.value_scales, v),
    ):
        if scales is None:
            cache[row, :, at] = new[kept].to(cache.dtype)
            continue
        small, new_scales = quantize(new, cache.dtype)
        new.copy_(dequantize(small, new_scales))
        _bytes(cache)[row, :, at] = _bytes(small)[kept]
        scales[row, :, at] = new_scales[kept]


def _read(cache: Tensor, scales: Tensor | None, rows: Tensor, reach: int) -> Tensor:
    part = _bytes(cache)[rows, :, :reach].view(cache.dtype)
    return dequantize(part, None if scales is None else scales[rows, :, :reach])


def _rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """x (T, heads, D), rotation (T, 1, D): its pairs (i, i + D/2) turned by their angles."""
    cos, sin = rotation.chunk(2, dim=-1)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _bytes(x: Tensor) -> Tensor:
    """8-bit floats as the bytes that they are, since PyTorch cannot index them everywhere."""
    return x.view(torch.uint8) if x.dtype == torch.float8_e4m3fn else x
