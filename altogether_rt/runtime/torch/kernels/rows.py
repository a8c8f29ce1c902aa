"""Starts the Triton kernels of norms and activations; imported only where Triton is installed.

One program for each row. Between two products there is one kernel: it adds what the first gave to
the residual, norms it, and writes the second's operand, in fp8 if that product is. What a kernel is
compiled for is kept, since working it out takes as long as starting the kernel.
"""

from __future__ import annotations

import functools

import torch
import triton
from torch import Tensor

from altogether_rt.runtime.torch.float8 import E4M3_MAX, SMALLEST, Float8Rows
from altogether_rt.runtime.torch.kernels.plain_rows import Activation, NormWeights
from altogether_rt.runtime.torch.kernels.row_device_code import activate_kernel, add_norm_kernel

__all__ = ["activate", "activate_constants", "add_norm", "add_norm_constants", "row_warps"]

#: Numbers of a row for each warp, so that a thread has 16 of them.
_WARP_NUMBERS = 512
_MAX_WARPS = 16


@functools.cache
def row_warps(width: int) -> int:
    """Warps of a program whose row is `width` numbers."""
    block: int = triton.next_power_of_2(width)
    return min(max(block // _WARP_NUMBERS, 1), _MAX_WARPS)


@functools.cache
def add_norm_constants(
    width: int, *, add: bool, rms: bool, shift: bool, float8: bool
) -> dict[str, int | float | bool | str]:
    """What `add_norm_kernel` is compiled for. add: to a residual. shift: with a bias."""
    return {**_of_rows(width, float8), "ADD": add, "RMS": rms, "SHIFT": shift}


@functools.cache
def activate_constants(
    width: int, kind: Activation, *, gated: bool, float8: bool
) -> dict[str, int | float | bool | str]:
    """What `activate_kernel` is compiled for."""
    return {**_of_rows(width, float8), "KIND": kind, "GATED": gated}


def add_norm(
    x: Tensor, residual: Tensor | None, norm: NormWeights, *, float8: bool = False
) -> tuple[Tensor, Tensor | Float8Rows]:
    """The sum of x (T, W) and `residual`, and its norm; see `plain_rows.add_norm`."""
    x = x.contiguous()
    count, width = x.shape
    total = x if residual is None else torch.empty_like(residual, memory_format=_ROWS)
    out, scales = _empty(count, width, total, float8)
    add_norm_kernel[count,](
        x,
        x if residual is None else residual.contiguous(),
        total,
        norm.weight,
        norm.weight if norm.bias is None else norm.bias,
        out,
        norm.weight if scales is None else scales,
        norm.eps,
        **add_norm_constants(
            width,
            add=residual is not None,
            rms=norm.rms,
            shift=norm.bias is not None,
            float8=float8,
        ),
        num_warps=row_warps(width),
    )
    return total, out if scales is None else Float8Rows(out, scales)


def activate(
    x: Tensor, kind: Activation, *, gated: bool = False, float8: bool = False
) -> Tensor | Float8Rows:
    """The activation of x (T, W), or (T, 2 W) with a gate; see `plain_rows.activate`."""
    x = x.contiguous()
    count, width = len(x), x.shape[1] // 2 if gated else x.shape[1]
    out, scales = _empty(count, width, x, float8)
    activate_kernel[count,](
        x,
        out,
        out if scales is None else scales,
        **activate_constants(width, kind, gated=gated, float8=float8),
        num_warps=row_warps(width),
    )
    return out if scales is None else Float8Rows(out, scales)


_ROWS = torch.contiguous_format


def _empty(count: int, width: int, like: Tensor, float8: bool) -> tuple[Tensor, Tensor | None]:
    if not float8:
        return like.new_empty(count, width), None
    values = like.new_empty(count, width, dtype=torch.float8_e4m3fn)
    return values, like.new_empty(count, 1, dtype=torch.float32)


def _of_rows(width: int, float8: bool) -> dict[str, int | float | bool | str]:
    return {
        "WIDTH": width,
        "BLOCK": triton.next_power_of_2(width),
        "MAX": E4M3_MAX if float8 else 0.0,
        "MIN": SMALLEST,
    }
