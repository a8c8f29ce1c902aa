"""Starts the Triton kernels of the decoder's attention; imported only where Triton is installed.

`attend` is a decode or verify step: one program for each row and key/value head rotates the row's
new keys, writes them and the new values into its slot, and attends to the slot over its own length
alone, a block of tokens at a time with an online softmax (Dao et al. 2022, arXiv 2205.14135). New
tokens are attended to from registers, so nothing is read back that the same program has written.
`store` is the part of it that prompts need, whose attention is causal within the prompt.
"""

from __future__ import annotations

import functools

import torch
import triton
from torch import Tensor

from altogether_rt.runtime.torch.kernels.device_code import attend_kernel, store_kernel
from altogether_rt.runtime.torch.kernels.slots import (
    MAX_VALUE,
    MIN_SCALE,
    HeadLayout,
    LayerSlots,
    PromptRows,
    RaggedRows,
    token_bucket,
)

__all__ = ["WARPS", "attend", "attend_constants", "store", "store_constants"]

#: Numbers of cached keys that a program reads at once, and tokens at most: with twice as many, half
#: as many programs fit on a multiprocessor.
_BLOCK_NUMBERS, _BLOCK_TOKENS = 4096, 64
#: Warps of a program of each kernel.
WARPS = {"attend": 4, "store": 1}
#: The smallest side of a matrix product on tensor cores.
_MIN_SIDE = 16


@functools.cache
def attend_constants(
    heads: HeadLayout, max_tokens: int, stored: torch.dtype, rotary: bool
) -> dict[str, int | float | bool]:
    """What `attend_kernel` is compiled for.

    One query a program is a sum over the block, which waits for memory alone; several, of a group
    or of draft tokens, are products on tensor cores, padded to the smallest that those take.
    """
    queries = max_tokens * heads.group
    products = queries > 1
    side = _MIN_SIDE if products else 1
    width = _padded(heads.head_dim)
    return {
        **_of_heads(heads, stored, rotary),
        "QUERIES": max(side, triton.next_power_of_2(queries)),
        "TOKENS": max(side, triton.next_power_of_2(max_tokens)),
        "BLOCK": max(_MIN_SIDE, min(_BLOCK_NUMBERS // width, _BLOCK_TOKENS)),
        "PRODUCTS": products,
    }


@functools.cache
def store_constants(
    heads: HeadLayout, stored: torch.dtype, rotary: bool
) -> dict[str, int | float | bool]:
    """What `store_kernel` is compiled for."""
    return {
        **_of_heads(heads, stored, rotary),
        "QUERIES": triton.next_power_of_2(heads.group),
    }


def _of_heads(
    heads: HeadLayout, stored: torch.dtype, rotary: bool
) -> dict[str, int | float | bool]:
    return {
        "HEADS": heads.heads,
        "KV_HEADS": heads.kv_heads,
        "D": heads.head_dim,
        "PADDED_D": _padded(heads.head_dim),
        "ROTARY": rotary,
        "MAX": MAX_VALUE.get(stored, 0.0),
        "MIN": MIN_SCALE,
    }


def _padded(head_dim: int) -> int:
    size: int = triton.next_power_of_2(head_dim)
    return max(_MIN_SIDE, size)


def attend(
    qkv: Tensor, slots: LayerSlots, rows: RaggedRows, heads: HeadLayout, rotation: Tensor | None
) -> Tensor:
    """New tokens of ragged rows against their slots: qkv (T, qkv_width) -> (T, heads · D).

    Arguments as for `plain.attend`; `qkv` stays as it is.
    """
    bucket = token_bucket(rows.max_tokens, heads)
    assert bucket is not None, "rows with so many tokens are computed plainly"
    out = torch.empty(len(qkv), heads.heads * heads.head_dim, dtype=qkv.dtype, device=qkv.device)
    unused = slots.keys
    attend_kernel[len(rows.past), heads.kv_heads](
        qkv, out, slots.keys, slots.values,
        unused if slots.key_scales is None else slots.key_scales,
        unused if slots.value_scales is None else slots.value_scales,
        rows.starts, rows.counts, rows.past, unused if rotation is None else rotation,
        slots.capacity, slots.keys.stride(0), heads.head_dim**-0.5,
        **attend_constants(heads, bucket, slots.keys.dtype, rotation is not None),
        num_warps=WARPS["attend"],
    )  # fmt: skip
    return out


def store(
    qkv: Tensor, slots: LayerSlots, prompts: PromptRows, heads: HeadLayout, rotation: Tensor | None
) -> None:
    """Rotate `qkv` in place and put its keys and values in the slots; see `plain.store`."""
    unused = slots.keys
    store_kernel[len(qkv), heads.kv_heads](
        qkv, slots.keys, slots.values,
        unused if slots.key_scales is None else slots.key_scales,
        unused if slots.value_scales is None else slots.value_scales,
        prompts.slots, prompts.positions, unused if rotation is None else rotation,
        slots.capacity, slots.keys.stride(0),
        **store_constants(heads, slots.keys.dtype, rotation is not None),
        num_warps=WARPS["store"],
    )  # fmt: skip
