"""What attention over the cache reads and writes: one layer's slots, and a step's ragged rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from altogether_rt.config import DecoderConfig

__all__ = [
    "MAX_VALUE",
    "MIN_SCALE",
    "CacheType",
    "HeadLayout",
    "LayerSlots",
    "PromptRows",
    "RaggedRows",
    "SlotCache",
    "dequantize",
    "quantize",
    "rotation_table",
    "round_as_kept",
    "token_bucket",
]

#: How keys and values are kept: as they are computed, or in eight bits with a scale each.
CacheType = Literal["same", "int8", "float8"]

_QUANTIZED: dict[str, torch.dtype] = {"int8": torch.int8, "float8": torch.float8_e4m3fn}
#: Tokens of a row that the kernel is compiled for, so that few are compiled while captions are
#: written.
_TOKEN_BUCKETS = (1, 4, 16)
#: Queries of one program, beyond which its sums no longer fit in registers.
_MAX_QUERIES = 128
#: The largest number of each 8-bit type.
MAX_VALUE = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
#: A scale is at least this, so that a vector of zeros is divided by something.
MIN_SCALE = 1e-12


@dataclass(frozen=True)
class HeadLayout:
    """Query heads, the key/value heads that groups of them share, and their width D."""

    heads: int
    kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, config: DecoderConfig) -> HeadLayout:
        return cls(config.heads, config.num_kv_heads, config.head_dim)

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.heads // self.kv_heads

    @property
    def qkv_width(self) -> int:
        """Width of a token's packed queries, keys and values."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim


@dataclass(frozen=True)
class LayerSlots:
    """Keys and values of one layer: (slots, kv_heads, capacity, D).

    Scales, (slots, kv_heads, capacity) in float32, belong to 8-bit keys and values alone.
    """

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None

    @classmethod
    def holding(cls, keys: Tensor, values: Tensor, kept: CacheType) -> LayerSlots:
        """Slots that keep these keys and values, each (slots, kv_heads, capacity, D)."""
        if kept == "same":
            return cls(keys, values)
        (small_keys, key_scales), (small_values, value_scales) = (
            quantize(part, _QUANTIZED[kept]) for part in (keys, values)
        )
        return cls(small_keys, small_values, key_scales, value_scales)

    def copy(self) -> LayerSlots:
        parts = (self.keys, self.values, self.key_scales, self.value_scales)
        keys, values, *scales = (None if part is None else part.clone() for part in parts)
        assert keys is not None and values is not None
        return LayerSlots(keys, values, *scales)

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]


@dataclass(frozen=True)
class SlotCache:
    """Keys and values of all layers; like `KVCache` it holds no lengths.

    One tensor has them all, (2 · layers, slots, kv_heads, capacity, D), and one its scales, so that
    a slot moves by one copy.
    """

    stored: Tensor
    scales: Tensor | None

    @classmethod
    def zeros(
        cls,
        config: DecoderConfig,
        num_slots: int,
        capacity: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        kept: CacheType = "same",
    ) -> SlotCache:
        """An empty cache; `dtype` is that of the step, `kept` how the cache keeps it."""
        shape = (2 * config.layers, num_slots, config.num_kv_heads, capacity, config.head_dim)
        stored = torch.zeros(shape, device=device, dtype=_QUANTIZED.get(kept, dtype))
        return cls(stored, None if kept == "same" else torch.zeros(shape[:-1], device=device))

    @cached_property
    def layers(self) -> tuple[LayerSlots, ...]:
        scales = self.scales
        return tuple(
            LayerSlots(
                self.stored[at],
                self.stored[at + 1],
                None if scales is None else scales[at],
                None if scales is None else scales[at + 1],
            )
            for at in range(0, len(self.stored), 2)
        )

    def tensors(self) -> Iterator[Tensor]:
        """What it consists of; the dimensions are layer and part, slot, head, position."""
        yield self.stored
        if self.scales is not None:
            yield self.scales

    def move_slot(self, src: int, dst: int, length: int) -> None:
        """Copy the first `length` tokens of slot `src` over slot `dst`."""
        for part in self.tensors():
            part[:, dst, :, :length] = part[:, src, :, :length]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.tensors())


@dataclass(frozen=True)
class RaggedRows:
    """The rows of a step, packed one after another; row b's tokens go to slot b."""

    starts: Tensor  # (B,) int32: index of each row's first packed token
    counts: Tensor  # (B,) int32: packed tokens of each row, which may be none
    past: Tensor  # (B,) int32 tokens in each slot; -1: computed like an empty slot, nothing written
    max_tokens: int  # that a row brings

    def tokens(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the rows' tokens the index among the packed ones, the row, and the position in the
        slot: each (N,) int64. Waits for the device.
        """
        row = torch.repeat_interleave(self.counts.long())
        first = (self.counts.cumsum(0) - self.counts)[row]
        within = torch.arange(len(row), device=row.device) - first
        return within + self.starts[row], row, within + self.past[row].clamp(min=0)


@dataclass(frozen=True)
class PromptRows:
    """Whole prompts, packed one after another; their slots were empty."""

    slots: Tensor  # (T,) int32 of each token
    positions: Tensor  # (T,) int32 of each token in its slot
    bounds: Tensor  # (P + 1,) int32: prompt p is the tokens bounds[p] to bounds[p + 1]
    lengths: tuple[int, ...]  # of the P prompts


def token_bucket(max_tokens: int, heads: HeadLayout) -> int | None:
    """Tokens of a row that the kernel of a step is compiled for; None: it is computed plainly."""
    size = next((each for each in _TOKEN_BUCKETS if each >= max_tokens), None)
    return size if size is not None and size * heads.group <= _MAX_QUERIES else None


def rotation_table(config: DecoderConfig, positions: int, device: torch.device | str) -> Tensor:
    """Cosines, then sines, of every position's rotary angles: float32 (positions, D).

    Su et al. 2021, arXiv 2104.09864, with the pairs (i, i + D/2), as in `model.decoder`.
    """
    half = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float32)
    frequency = config.rope_theta ** -(half / config.head_dim)
    angle = torch.arange(positions, device=device, dtype=torch.float32)[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def quantize(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x (..., D) in eight bits, and its scales (...): one for each vector."""
    exact, largest = x.float(), MAX_VALUE[dtype]
    scales = (exact.abs().amax(dim=-1) / largest).clamp(min=MIN_SCALE)
    scaled = exact / scales[..., None]
    if dtype == torch.int8:
        scaled = torch.floor(scaled + 0.5)
    return scaled.to(dtype), scales


def round_as_kept(x: Tensor, kept: CacheType) -> Tensor:
    """What is read back of keys or values x (..., D), in the type of x."""
    return x if kept == "same" else dequantize(*quantize(x, _QUANTIZED[kept])).to(x.dtype)


def dequantize(x: Tensor, scales: Tensor | None) -> Tensor:
    """What `quantize` kept, in float32; without scales, x itself in float32."""
    return x.float() if scales is None else x.float() * scales[..., None]
