"""The kernels' arithmetic in plain PyTorch: their reference, and what runs where Triton cannot."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from altogether_rt.runtime.torch.kernels.slots import (
    HeadLayout,
    LayerSlots,
    RaggedRows,
    dequantize,
    quantize,
)

__all__ = ["attend", "attend_prompts", "store"]


def store(
    qkv: Tensor, slots: LayerSlots, rows: RaggedRows, heads: HeadLayout, rotation: Tensor | None
) -> None:
    """Rotate queries and keys of qkv (T, qkv_width) in place and put keys and values in the slots.

    What an 8-bit cache keeps also takes the place of keys and values in `qkv`, so that a token
    sees the same numbers in the step that brings it and in every later one. rotation: see
    `rotation_table`; None: positions are not rotary.
    """
    row, at = rows.token_rows(len(qkv))
    parts = qkv.view(len(qkv), -1, heads.head_dim)  # (T, heads + 2 kv_heads, D)
    turned = heads.heads + heads.kv_heads
    if rotation is not None:
        parts[:, :turned] = _rotate(parts[:, :turned].float(), rotation[at][:, None]).to(qkv.dtype)
    kept = rows.past[row] >= 0
    row, at = row[kept], at[kept]
    for cache, scales, new in (
        (slots.keys, slots.key_scales, parts[:, heads.heads : turned]),
        (slots.values, slots.value_scales, parts[:, turned:]),
    ):
        if scales is None:
            cache[row, :, at] = new[kept].to(cache.dtype)
            continue
        small, new_scales = quantize(new, cache.dtype)
        new.copy_(dequantize(small, new_scales))
        _bytes(cache)[row, :, at] = _bytes(small)[kept]
        scales[row, :, at] = new_scales[kept]


def attend_prompts(qkv: Tensor, rows: RaggedRows, heads: HeadLayout) -> Tensor:
    """Causal attention within each row, for rows whose slots were empty: (T, heads · D).

    qkv (T, qkv_width) as `store` leaves it. No row is padded.
    """
    bounds = rows.starts.tolist()
    q, k, v = _split(qkv, heads)  # (T, heads or kv_heads, D)
    out = torch.empty_like(q)
    for start, stop in itertools.pairwise(bounds):
        if start == stop:
            continue
        mixed = F.scaled_dot_product_attention(
            q[None, start:stop].transpose(1, 2),
            k[None, start:stop].transpose(1, 2),
            v[None, start:stop].transpose(1, 2),
            is_causal=True,
            enable_gqa=heads.group > 1,
        )
        out[start:stop] = mixed[0].transpose(0, 1)
    return out.view(len(qkv), -1)


def attend(
    qkv: Tensor, slots: LayerSlots, rows: RaggedRows, heads: HeadLayout, rotation: Tensor | None
) -> Tensor:
    """`store`, then each token's attention to its slot up to itself: (T, heads · D)."""
    store(qkv, slots, rows, heads, rotation)
    tokens = len(qkv)
    row, at = rows.token_rows(tokens)
    q, new_k, new_v = _split(qkv, heads)
    reach = int(at.max()) + 1
    # (B, kv_heads, reach, D); a row that writes nothing sees its new token alone.
    keys, values = (
        _read(cache, scales, len(rows.past), reach)
        for cache, scales in ((slots.keys, slots.key_scales), (slots.values, slots.value_scales))
    )
    idle = rows.past[row] < 0
    keys, values = keys[row], values[row]  # (T, kv_heads, reach, D)
    keys[idle, :, at[idle]] = new_k[idle].float()
    values[idle, :, at[idle]] = new_v[idle].float()
    visible = torch.arange(reach, device=qkv.device) <= at[:, None]  # (T, reach)
    mixed = F.scaled_dot_product_attention(
        q.float()[:, :, None],
        keys,
        values,
        attn_mask=visible[:, None, None],
        enable_gqa=heads.group > 1,
    )
    return mixed.to(qkv.dtype).reshape(tokens, -1)


def _read(cache: Tensor, scales: Tensor | None, rows: int, reach: int) -> Tensor:
    part = None if scales is None else scales[:rows, :, :reach]
    return dequantize(cache[:rows, :, :reach], part)


def _split(qkv: Tensor, heads: HeadLayout) -> tuple[Tensor, Tensor, Tensor]:
    parts = qkv.view(len(qkv), -1, heads.head_dim)
    turned = heads.heads + heads.kv_heads
    return parts[:, : heads.heads], parts[:, heads.heads : turned], parts[:, turned:]


def _rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """x (T, heads, D), rotation (T, 1, D): its pairs (i, i + D/2) turned by their angles."""
    cos, sin = rotation.chunk(2, dim=-1)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _bytes(x: Tensor) -> Tensor:
    """8-bit floats as the bytes that they are: PyTorch cannot write them by index everywhere."""
    return x if x.dtype == torch.int8 else x.view(torch.uint8)
