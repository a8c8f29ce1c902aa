"""What runs on the GPU between products: norms and activations in Triton's language, a row each.

Written like `device_code`, which says how to read it. A program has its whole row in registers, so
that the row is read once and written once, and its statistics and largest value are at hand.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["activate_kernel", "add_norm_kernel"]


@triton.jit
def _store_row(y, OUT, SCALES, row, at, real, WIDTH: tl.constexpr, MAX: tl.constexpr,
               MIN: tl.constexpr):  # fmt: skip
    """Write y (BLOCK,) float32, zero where not `real`; with a scale if MAX is not 0."""
    if MAX != 0:
        scale = tl.maximum(tl.max(tl.abs(y), 0), MIN) / MAX
        y = tl.minimum(tl.maximum(y / scale, -MAX), MAX)
        tl.store(SCALES + row, scale)
    tl.store(OUT + row * WIDTH + at, y.to(OUT.dtype.element_ty), mask=real)


@triton.jit
def add_norm_kernel(
    X, RESIDUAL, SUM, WEIGHT, BIAS, OUT, SCALES, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr, RMS: tl.constexpr,
    SHIFT: tl.constexpr, MAX: tl.constexpr, MIN: tl.constexpr,
):  # fmt: skip
    """See `rows.add_norm`. Grid: (rows,)."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    real = at < WIDTH
    x = tl.load(X + row * WIDTH + at, mask=real, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(RESIDUAL + row * WIDTH + at, mask=real, other=0.0).to(tl.float32)
        kept = x.to(SUM.dtype.element_ty)
        tl.store(SUM + row * WIDTH + at, kept, mask=real)
        x = kept.to(tl.float32)
    if not RMS:
        x = tl.where(real, x - tl.sum(x, 0) / WIDTH, 0.0)
    y = x * (1 / tl.sqrt(tl.sum(x * x, 0) / WIDTH + eps))
    y = y * tl.load(WEIGHT + at, mask=real, other=0.0).to(tl.float32)
    if SHIFT:
        y += tl.load(BIAS + at, mask=real, other=0.0).to(tl.float32)
    _store_row(y, OUT, SCALES, row, at, real, WIDTH, MAX, MIN)


@triton.jit
def activate_kernel(
    X, OUT, SCALES,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr, GATED: tl.constexpr,
    MAX: tl.constexpr, MIN: tl.constexpr,
):  # fmt: skip
    """See `rows.activate`. Grid: (rows,)."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    real = at < WIDTH
    STRIDE: tl.constexpr = 2 * WIDTH if GATED else WIDTH
    x = tl.load(X + row * STRIDE + at, mask=real, other=0.0).to(tl.float32)
    if KIND == "relu":
        y = tl.maximum(x, 0.0)
    elif KIND == "gelu":
        y = 0.5 * x * (1 + tl.math.erf(x * 0.7071067811865476))
    elif KIND == "gelu_tanh":  # tanh(z) = 2 sigmoid(2 z) - 1
        y = x / (1 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))
    elif KIND == "quick_gelu":
        y = x / (1 + tl.exp(-1.702 * x))
    elif KIND == "silu":
        y = x / (1 + tl.exp(-x))
    else:
        tl.static_assert(KIND == "none")
        y = x
    if GATED:
        y = y * tl.load(X + row * STRIDE + WIDTH + at, mask=real, other=0.0).to(tl.float32)
    _store_row(y, OUT, SCALES, row, at, real, WIDTH, MAX, MIN)
