"""What runs on the GPU: the decoder's attention in Triton's language, compiled for each layout.

Arguments in capitals are pointers, or constants that a kernel is compiled for. They have no types:
Triton reads these functions as text and takes the types of what it is given.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["attend_kernel", "store_kernel"]


@triton.jit
def _rotated(POINTER, ROTATION, at, d, real, D: tl.constexpr, ROTARY: tl.constexpr):
    """Vectors at POINTER, (N, 1) pointers to their first elements, turned by their positions.

    Returns float32 (N, PADDED_D), zero where not `real`. at: (N, 1) positions.
    """
    x = tl.load(POINTER + d, mask=real, other=0.0).to(tl.float32)
    if ROTARY:
        HALF: tl.constexpr = D // 2
        first = d < HALF
        pair = tl.where(first, d, d - HALF)
        other = tl.load(POINTER + tl.where(first, d + HALF, d - HALF), mask=real, other=0.0)
        other = other.to(tl.float32)
        cos = tl.load(ROTATION + at * D + pair, mask=real, other=0.0)
        sin = tl.load(ROTATION + at * D + HALF + pair, mask=real, other=0.0)
        x = x * cos + tl.where(first, -other, other) * sin
    return x


@triton.jit
def _kept(x, TYPE: tl.constexpr, MAX: tl.constexpr, MIN: tl.constexpr):
    """Vectors x (N, PADDED_D) as the cache keeps them, and their scales (N,), 1 without any."""
    scales = tl.full((x.shape[0],), 1.0, tl.float32)
    if MAX != 0:
        scales = tl.maximum(tl.max(tl.abs(x), 1) / MAX, MIN)
        x = x / scales[:, None]
        if tl.int8 == TYPE:
            x = tl.floor(x + 0.5)
    return x.to(TYPE), scales


# Of one query (M is 1) sums are over two dimensions and scales beside one: with three, or with
# scales beside two, a program takes so many registers that few fit on a multiprocessor.
@triton.jit
def _scores(q, k, scales, SCALED: tl.constexpr, PRODUCTS: tl.constexpr):
    """q (M, PADDED_D) times k (N, PADDED_D), whose vectors have scales (N,): float32 (M, N)."""
    if PRODUCTS:
        s = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision="ieee")
        if SCALED:
            s = s * scales[None, :]
    else:
        each = tl.sum(q.to(tl.float32) * k.to(tl.float32), 1)
        if SCALED:
            each = each * scales
        s = each[None, :]
    return s


@triton.jit
def _mixed(p, v, scales, SCALED: tl.constexpr, TYPE: tl.constexpr, PRODUCTS: tl.constexpr):
    """Weights p (M, N) times v (N, PADDED_D), whose vectors have scales (N,): float32
    (M, PADDED_D); as a product in TYPE."""
    if PRODUCTS:
        if SCALED:
            p = p * scales[None, :]
        m = tl.dot(p.to(TYPE), v.to(TYPE), input_precision="ieee")
    else:
        weights = (tl.sum(p, 0) * scales)[:, None] if SCALED else tl.trans(p)
        m = tl.sum(weights * v.to(tl.float32), 0)[None, :]
    return m


# Steps bring these arrays as parts of one, which begin anywhere: a kernel for each alignment would
# be compiled while captions are written, to read single numbers.
@triton.jit(do_not_specialize_on_alignment=("STARTS", "COUNTS", "PAST"))
def attend_kernel(
    QKV, OUT, KEYS, VALUES, KEY_SCALES, VALUE_SCALES, STARTS, COUNTS, PAST, ROTATION,
    capacity, slot_stride, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, PADDED_D: tl.constexpr,
    QUERIES: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr,
    ROTARY: tl.constexpr, MAX: tl.constexpr, MIN: tl.constexpr, PRODUCTS: tl.constexpr,
):  # fmt: skip
    """See `attend`. Grid: (rows, KV_HEADS)."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    WIDTH: tl.constexpr = (HEADS + 2 * KV_HEADS) * D
    TYPE: tl.constexpr = QKV.dtype.element_ty  # of products
    row = tl.program_id(0)
    head = tl.program_id(1)
    start = tl.load(STARTS + row)
    count = tl.load(COUNTS + row)
    given = tl.load(PAST + row)
    past = tl.maximum(given, 0)
    d = tl.arange(0, PADDED_D)[None, :]
    in_head = d < D

    # Queries: those of a token stand side by side, so that (token, member of the group) is flat.
    m = tl.arange(0, QUERIES)[:, None]
    token = m // GROUP
    asked = (token < count) & in_head
    base = QKV + (start + token).to(tl.int64) * WIDTH + (head * GROUP + m % GROUP) * D
    q = _rotated(base, ROTATION, past + token, d, asked, D, ROTARY)
    q = (q * (scale * 1.4426950408889634)).to(TYPE)  # log2(e): the softmax is in powers of two

    # New keys and values: rounded as the cache keeps them, written, and attended to first.
    n = tl.arange(0, TOKENS)[:, None]
    new = (n < count) & in_head
    base = QKV + (start + n).to(tl.int64) * WIDTH + (HEADS + head) * D
    k = _rotated(base, ROTATION, past + n, d, new, D, ROTARY)
    v = tl.load(base + KV_HEADS * D + d, mask=new, other=0.0).to(tl.float32)
    k, k_scales = _kept(k.to(TYPE).to(tl.float32), KEYS.dtype.element_ty, MAX, MIN)
    v, v_scales = _kept(v, VALUES.dtype.element_ty, MAX, MIN)
    slot = row.to(tl.int64) * slot_stride + head * capacity * D
    lines = row.to(tl.int64) * (slot_stride // D) + head * capacity  # of the scales
    room = tl.minimum(tl.where(given < 0, 0, count), capacity - past)  # tokens that are written
    written = (n < room) & in_head
    tl.store(KEYS + slot + (past + n) * D + d, k, mask=written)
    tl.store(VALUES + slot + (past + n) * D + d, v, mask=written)
    flat = tl.arange(0, TOKENS)
    if MAX != 0:
        tl.store(KEY_SCALES + lines + past + flat, k_scales, mask=flat < room)
        tl.store(VALUE_SCALES + lines + past + flat, v_scales, mask=flat < room)
    SCALED: tl.constexpr = MAX != 0
    s = _scores(q, k, k_scales, SCALED, PRODUCTS)
    # Of a query beyond the row's tokens every key is hidden but the first, so that it stays finite.
    s = tl.where(
        (flat[None, :] <= token) & (flat[None, :] < tl.maximum(count, 1)), s, float("-inf")
    )
    highest = tl.max(s, 1)
    p = tl.exp2(s - highest[:, None])
    total = tl.sum(p, 1)
    mixed = _mixed(p, v, v_scales, SCALED, TYPE, PRODUCTS)

    past = tl.where(count > 0, past, 0)  # nothing is asked of an idle row
    for first in range(0, past, BLOCK):
        t = first + tl.arange(0, BLOCK)
        cached = t < past
        lanes = cached[:, None] & in_head
        at = slot + t[:, None] * D + d
        keys = tl.load(KEYS + at, mask=lanes, other=0.0)
        values = tl.load(VALUES + at, mask=lanes, other=0.0)
        if SCALED:
            key_scales = tl.load(KEY_SCALES + lines + t, mask=cached, other=0.0)
            value_scales = tl.load(VALUE_SCALES + lines + t, mask=cached, other=0.0)
        else:
            key_scales = 1.0
            value_scales = 1.0
        scores = _scores(q, keys, key_scales, SCALED, PRODUCTS)
        scores = tl.where(cached[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        shrink = tl.exp2(highest - higher)
        weights = tl.exp2(scores - higher[:, None])
        total = total * shrink + tl.sum(weights, 1)
        mixed = mixed * shrink[:, None] + _mixed(
            weights, values, value_scales, SCALED, TYPE, PRODUCTS
        )
        highest = higher
    base = OUT + (start + token).to(tl.int64) * (HEADS * D) + (head * GROUP + m % GROUP) * D
    tl.store(base + d, (mixed / total[:, None]).to(OUT.dtype.element_ty), mask=asked)


@triton.jit(do_not_specialize_on_alignment=("SLOTS", "POSITIONS"))
def store_kernel(
    QKV, KEYS, VALUES, KEY_SCALES, VALUE_SCALES, SLOTS, POSITIONS, ROTATION,
    capacity, slot_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, PADDED_D: tl.constexpr,
    QUERIES: tl.constexpr, ROTARY: tl.constexpr, MAX: tl.constexpr, MIN: tl.constexpr,
):  # fmt: skip
    """See `store`. Grid: (tokens, KV_HEADS)."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    WIDTH: tl.constexpr = (HEADS + 2 * KV_HEADS) * D
    TYPE: tl.constexpr = QKV.dtype.element_ty
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    row = tl.load(SLOTS + token).to(tl.int64)
    at = tl.load(POSITIONS + token)
    d = tl.arange(0, PADDED_D)[None, :]
    in_head = d < D
    if ROTARY:
        m = tl.arange(0, QUERIES)[:, None]
        asked = (m < GROUP) & in_head
        base = QKV + token * WIDTH + (head * GROUP + m) * D
        q = _rotated(base, ROTATION, at + m * 0, d, asked, D, ROTARY)
        tl.debug_barrier()  # every thread has read before one writes
        tl.store(base + d, q.to(TYPE), mask=asked)
    one = tl.arange(0, 1)[:, None]
    base = QKV + token * WIDTH + (HEADS + head) * D + one
    k = _rotated(base, ROTATION, at + one, d, in_head, D, ROTARY)
    v = tl.load(base + KV_HEADS * D + d, mask=in_head, other=0.0).to(tl.float32)
    k, k_scales = _kept(k.to(TYPE).to(tl.float32), KEYS.dtype.element_ty, MAX, MIN)
    v, v_scales = _kept(v, VALUES.dtype.element_ty, MAX, MIN)
    tl.debug_barrier()
    tl.store(base + d, (k.to(tl.float32) * k_scales[:, None]).to(TYPE), mask=in_head)
    tl.store(base + KV_HEADS * D + d, (v.to(tl.float32) * v_scales[:, None]).to(TYPE), mask=in_head)
    width = tl.where(at < capacity, D, 0)  # that is written
    written = d < width
    to = row * slot_stride + (head * capacity + at) * D + d
    tl.store(KEYS + to, k, mask=written)
    tl.store(VALUES + to, v, mask=written)
    if MAX != 0:
        flat = tl.arange(0, 1)
        line = row * (slot_stride // D) + head * capacity + at + flat
        tl.store(KEY_SCALES + line, k_scales, mask=flat < width)
        tl.store(VALUE_SCALES + line, v_scales, mask=flat < width)
