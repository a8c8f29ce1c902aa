"""The Triton kernels in Triton's interpreter, against the same in plain PyTorch.

`test_kernels.py` runs this file in a process of its own, with `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from altogether_rt.runtime.torch.kernels import attention, plain
from altogether_rt.runtime.torch.kernels.slots import (
    CacheType,
    HeadLayout,
    PromptRows,
    RaggedRows,
    SlotCache,
    dequantize,
    rotation_table,
)
from tests.tiny import tiny_config

CAPACITY = 150  # more than two of a kernel's blocks
#: Heads alone, in groups, in groups that are no power of two, and of a width that is none.
LAYOUTS = {
    "alone": HeadLayout(3, 3, 16),
    "groups": HeadLayout(8, 2, 32),
    "three to one": HeadLayout(9, 3, 16),
    "wide": HeadLayout(2, 2, 80),
}
#: A step's error against float32, as a fraction of the norm. Where a GPU rounds to bfloat16, the
#: interpreter cuts off.
ROUNDING = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 2e-2}
#: The bits of an 8-bit float are counted as integers: two neighbours differ by one.
EIGHT_BITS = (torch.int8, torch.float8_e4m3fn)


@dataclass
class Case:
    """One layer's attention over slots that hold random tokens."""

    heads: HeadLayout
    cache: SlotCache
    rows: RaggedRows
    qkv: Tensor
    rotation: Tensor | None


def case(
    heads: HeadLayout,
    past: Sequence[int],
    counts: Sequence[int],
    *,
    dtype: torch.dtype = torch.float16,
    kept: CacheType = "same",
    rotary: bool = False,
) -> Case:
    torch.manual_seed(len(past) + sum(past))
    config = replace(
        tiny_config("llama").decoder,
        layers=1,
        width=heads.heads * heads.head_dim,
        heads=heads.heads,
        kv_heads=heads.kv_heads,
    )
    cache = SlotCache.zeros(config, len(past) + 1, CAPACITY, dtype=dtype, kept=kept)
    tables = rotation_table(config, CAPACITY, "cpu") if rotary else None
    # Fill every slot, also beyond its length: what is stale must not be seen.
    full = prompts_of([CAPACITY] * (len(past) + 1))
    plain.store(
        _random((len(past) + 1) * CAPACITY, heads, dtype, kept), cache.layers[0], full, heads, None
    )
    rows = ragged(past, counts)
    return Case(heads, cache, rows, _random(sum(counts), heads, dtype, kept), tables)


def ragged(past: Sequence[int], counts: Sequence[int]) -> RaggedRows:
    given = torch.tensor(counts).int()
    return RaggedRows((given.cumsum(0) - given).int(), given, torch.tensor(past).int(), max(counts))


def prompts_of(lengths: Sequence[int]) -> PromptRows:
    counts = torch.tensor(lengths)
    slots = torch.repeat_interleave(counts)
    bounds = torch.tensor([0, *counts.cumsum(0)]).int()
    at = torch.arange(len(slots)) - bounds[slots]
    return PromptRows(slots.int(), at.int(), bounds, tuple(lengths))


def _random(tokens: int, heads: HeadLayout, dtype: torch.dtype, kept: CacheType) -> Tensor:
    """Random queries, keys and values.

    For a cache in fp8 keys and values are numbers of that type, with its largest one in each
    vector: the interpreter of Triton 3.9 rounds 124 to 64 there, so nothing may need rounding.
    """
    qkv = torch.randn(tokens, heads.heads + 2 * heads.kv_heads, heads.head_dim)
    if kept == "float8":
        parts = (100 * qkv[:, heads.heads :]).clamp(-448, 448).to(torch.float8_e4m3fn).float()
        parts[..., 3] = 448
        qkv = torch.cat([qkv[:, : heads.heads] / 448, parts], dim=1)
    return qkv.view(tokens, -1).to(dtype)


def copied(cache: SlotCache) -> SlotCache:
    scales = cache.scales
    return SlotCache(cache.stored.clone(), None if scales is None else scales.clone())


def exact(each: Case) -> Tensor:
    """The step in float32 over what the cache holds after it: (T, heads · D)."""
    cache = copied(each.cache)
    qkv = each.qkv.clone()
    _, slots, at = each.rows.tokens()
    tokens = PromptRows(slots, at, slots, ())
    plain.store(qkv, cache.layers[0], tokens, each.heads, each.rotation)
    heads, layer = each.heads, cache.layers[0]
    keys = dequantize(layer.keys, layer.key_scales)
    values = dequantize(layer.values, layer.value_scales)
    out = []
    queries = each.qkv.float().view(len(qkv), -1, heads.head_dim)[:, : heads.heads]
    if each.rotation is not None:
        cos, sin = each.rotation[at][:, None].chunk(2, dim=-1)
        a, b = queries.chunk(2, dim=-1)
        queries = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
    rows = torch.stack([each.rows.starts, each.rows.counts, each.rows.past], dim=1).tolist()
    for row, (start, count, past) in enumerate(rows):
        for index in range(start, start + count):
            length = past + index - start + 1
            for head in range(heads.heads):
                shared = head // heads.group
                k, v = keys[row, shared, :length], values[row, shared, :length]
                weights = torch.softmax(k @ queries[index, head] * heads.head_dim**-0.5, 0)
                out.append(weights @ v)
    return torch.stack(out).view(len(qkv), -1)


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())


def check(each: Case, bound: float) -> None:
    """Kernel and plain step agree with `exact`, and leave the same cache."""
    wanted = exact(each)
    caches = []
    for module in (attention, plain):
        cache = copied(each.cache)
        found = module.attend(
            each.qkv.clone(), cache.layers[0], each.rows, each.heads, each.rotation
        )
        assert error(found, wanted) < bound, (module.__name__, error(found, wanted))
        caches.append(cache)
    same_caches(*caches)


def same_caches(found: SlotCache, wanted: SlotCache) -> None:
    """Equal but for values halfway between two, of which either may be taken."""
    for a, b in zip(found.tensors(), wanted.tensors(), strict=True):
        if a.dtype in EIGHT_BITS:
            apart = (a.view(torch.int8).int() - b.view(torch.int8).int()).abs()
            assert int(apart.max()) <= 1, a.dtype
        else:
            bound = max(torch.finfo(a.dtype).eps, 1e-5)
            torch.testing.assert_close(a, b, rtol=bound, atol=1e-6)


RAGGED = [0, 37, 64, 149, 1, 128]  # an empty slot, both sides of a block, the slot's last token


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rotary", [False, True])
def test_a_decode_step(layout: str, rotary: bool) -> None:
    check(case(LAYOUTS[layout], RAGGED, [1] * 6, rotary=rotary), ROUNDING[torch.float16])


@pytest.mark.parametrize(("layout", "dtype"), [
    ("alone", torch.float32),
    ("groups", torch.float32),
    ("alone", torch.bfloat16),  # in groups the interpreter multiplies the bits of bfloat16
])  # fmt: skip
def test_a_decode_step_in_another_type(layout: str, dtype: torch.dtype) -> None:
    check(case(LAYOUTS[layout], RAGGED, [1] * 6, dtype=dtype, rotary=True), ROUNDING[dtype])


@pytest.mark.parametrize("num_tokens", [2, 3, 16])
@pytest.mark.parametrize("layout", ["alone", "groups"])
def test_a_verify_step(layout: str, num_tokens: int) -> None:
    """Rows bring several tokens, one, or none; each sees those before it."""
    past, counts = [0, 37, 150 - num_tokens, 70, 9], [num_tokens, 1, num_tokens, 0, num_tokens]
    each = case(LAYOUTS[layout], past, counts, rotary=layout == "groups")
    check(each, ROUNDING[torch.float16])


@pytest.mark.parametrize("kept", ["int8", "float8"])
@pytest.mark.parametrize(
    ("layout", "counts"),
    [("alone", [1, 1, 1, 1]), ("groups", [1, 1, 1, 1]), ("groups", [3, 1, 0, 4])],
)
def test_a_cache_of_eight_bits(layout: str, counts: list[int], kept: CacheType) -> None:
    rotary = layout == "groups" and kept == "int8"
    check(case(LAYOUTS[layout], [0, 37, 64, 146], counts, kept=kept, rotary=rotary), 1e-3)


@pytest.mark.parametrize(("layout", "kept", "rotary"), [
    ("alone", "same", False),
    ("groups", "same", True),
    ("three to one", "int8", True),
    ("wide", "same", True),
    ("wide", "float8", False),  # what is rotated would need rounding
])  # fmt: skip
def test_prompts_are_stored(layout: str, kept: CacheType, rotary: bool) -> None:
    each = case(LAYOUTS[layout], [0, 0, 0], [7, 1, 5], kept=kept, rotary=rotary)
    prompts = prompts_of([7, 1, 5])
    sides = []
    for module in (attention, plain):
        cache, qkv = copied(each.cache), each.qkv.clone()
        module.store(qkv, cache.layers[0], prompts, each.heads, each.rotation)
        sides.append((cache, qkv))
    same_caches(sides[0][0], sides[1][0])
    step = 0.03 if kept == "int8" else 0.0  # the largest number here is below 127 · 0.03
    torch.testing.assert_close(sides[0][1], sides[1][1], atol=1e-6 + step, rtol=1e-3)


@pytest.mark.parametrize("kept", ["same", "int8"])
def test_a_step_of_another_type_than_the_cache(kept: CacheType) -> None:
    """As it is where decode steps are in fp8, whose products give bfloat16."""
    each = case(LAYOUTS["alone"], [0, 37, 64, 146], [1, 1, 1, 1], kept=kept)
    check(replace(each, qkv=each.qkv.bfloat16()), ROUNDING[torch.bfloat16])


def test_prompts_of_another_type_than_the_cache_are_stored() -> None:
    """As they are where products are in fp8, whose results are bfloat16."""
    heads, prompts = LAYOUTS["groups"], prompts_of([7, 1, 5])
    each = case(heads, [0, 0, 0], [7, 1, 5], rotary=True)
    sides = []
    for module in (attention, plain):
        cache, qkv = copied(each.cache), each.qkv.bfloat16()
        module.store(qkv, cache.layers[0], prompts, heads, each.rotation)
        sides.append((cache, qkv))
    assert sides[0][0].stored.dtype == torch.float16
    for one, other in ((sides[0][0].stored, sides[1][0].stored), (sides[0][1], sides[1][1])):
        torch.testing.assert_close(one, other, rtol=2**-7, atol=1e-6)


def test_a_row_that_pads_a_step_writes_nothing() -> None:
    each = case(LAYOUTS["alone"], [5, -1, 7], [1, 1, 1])
    for module in (attention, plain):
        cache = copied(each.cache)
        out = module.attend(each.qkv.clone(), cache.layers[0], each.rows, each.heads, None)
        assert torch.isfinite(out).all()
        assert torch.equal(cache.layers[0].keys[1], each.cache.layers[0].keys[1])
        assert not torch.equal(cache.layers[0].keys[0], each.cache.layers[0].keys[0])


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    heads = LAYOUTS["groups"]
    together = case(heads, [40, 80, 3], [1, 1, 1])
    whole = attention.attend(
        together.qkv, copied(together.cache).layers[0], together.rows, heads, None
    )
    first = ragged([40], [1])
    alone = attention.attend(together.qkv[:1], copied(together.cache).layers[0], first, heads, None)
    assert torch.equal(whole[:1], alone)
