"""The layout of device memory: planned once and allocated once, as one block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from altogether_rt.artifacts.manifest import CacheSpec, TensorSpec
from altogether_rt.runtime.cuda.graph import Tensor
from altogether_rt.runtime.cuda.step_sizes import DecoderProfile, StepSizes

__all__ = [
    "ALIGNMENT",
    "CacheLayout",
    "DecoderMemory",
    "DevicePlan",
    "Region",
    "cache_tensors",
    "decoder_sizes",
    "input_layout",
    "layout_bytes",
    "plan_device",
    "tensor_shape",
]

#: Alignment of CUDA's own allocations, which TensorRT expects of all addresses.
ALIGNMENT = 256


@dataclass(frozen=True)
class Region:
    """A part of a block of memory."""

    offset: int
    nbytes: int


@dataclass(frozen=True)
class CacheLayout:
    """Keys and values of all slots: (layers, 2, slots, kv_heads, positions, head_dim).

    As in `KVBuffers`, one layer's keys of neighbouring slots are contiguous, so rows a..b of a call
    are bound at the address of slot a; and a slot consists of blocks of equal size at equal
    distances, so moving it is one strided copy.
    """

    spec: CacheSpec
    num_slots: int
    positions: int

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot's keys (or values) in one layer."""
        itemsize = np.dtype(self.spec.dtype).itemsize
        return self.spec.kv_heads * self.positions * self.spec.head_dim * itemsize

    @property
    def pitch(self) -> int:
        """Bytes from one layer's keys to its values, and on to the next layer's keys."""
        return self.num_slots * self.slot_bytes

    @property
    def num_blocks(self) -> int:
        """Blocks of a slot: keys and values of each layer."""
        return 2 * self.spec.layers

    @property
    def nbytes(self) -> int:
        return self.num_blocks * self.pitch

    def offset(self, layer: int, part: int, slot: int = 0) -> int:
        """Byte offset of the keys (part 0) or values (part 1) of `slot`; later slots follow."""
        return (2 * layer + part) * self.pitch + slot * self.slot_bytes

    def shape(self, rows: int) -> tuple[int, ...]:
        return (rows, self.spec.kv_heads, self.positions, self.spec.head_dim)


@dataclass(frozen=True)
class DecoderMemory:
    """Device addresses of the regions that the decoder uses."""

    cache: int
    inputs: int
    greedy_ids: int
    logits: int
    scratch: int


def cache_tensors(cache: CacheLayout, base: int, first: int, rows: int) -> dict[str, Tensor]:
    """Keys and values of all layers, for `rows` slots from `first` on: `key.0`, `value.0`, …

    Past and present of a layer are the same tensor.
    """
    return {
        f"{kind}.{layer}": Tensor(base + cache.offset(layer, part, first), cache.shape(rows))
        for layer in range(cache.spec.layers)
        for part, kind in enumerate(("key", "value"))
    }


@dataclass(frozen=True)
class DevicePlan:
    """Named regions of one block of device memory."""

    regions: Mapping[str, Region]
    nbytes: int


def plan_device(sizes: Mapping[str, int]) -> DevicePlan:
    """Lay out regions one after another, each aligned; `sizes` in bytes, by name."""
    regions, offset = {}, 0
    for name, nbytes in sizes.items():
        regions[name] = Region(offset, nbytes)
        offset += _aligned(nbytes)
    return DevicePlan(regions, offset)


def tensor_shape(spec: TensorSpec, sizes: StepSizes) -> tuple[int, ...]:
    """The shape of one of the decoder's tensors in a call of these sizes."""
    named = {
        "B": sizes.rows,
        "S": sizes.chunk,
        "T": sizes.tokens,
        "V": sizes.visual,
        "L": sizes.wanted,
    }
    return tuple(named[size] if size in named else int(size) for size in spec.shape)


def input_layout(specs: Sequence[TensorSpec], sizes: StepSizes) -> dict[str, Region]:
    """Regions of a call's inputs, one after another, so that one copy uploads them all."""
    by_name = {
        spec.name: int(np.prod(tensor_shape(spec, sizes))) * np.dtype(spec.dtype).itemsize
        for spec in specs
    }
    return dict(plan_device(by_name).regions)


def layout_bytes(specs: Sequence[TensorSpec], sizes: StepSizes) -> int:
    """Bytes that `input_layout` spans."""
    regions = input_layout(specs, sizes).values()
    return max((region.offset + _aligned(region.nbytes) for region in regions), default=0)


def decoder_sizes(
    inputs: Sequence[TensorSpec], profiles: Sequence[DecoderProfile], vocab_size: int
) -> dict[str, int]:
    """Bytes of each region that a decoder needs in addition to cache and scratch, by name."""
    wanted = max(profile.max_sizes.wanted for profile in profiles)
    return {
        "inputs": max(layout_bytes(inputs, profile.max_sizes) for profile in profiles),
        "greedy_ids": 8 * wanted,
        "logits": 4 * wanted * vocab_size,
    }


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
