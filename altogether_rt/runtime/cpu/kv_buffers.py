"""The decoder's key/value cache in host memory, laid out for graphs that update it in place."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from altogether_rt.artifacts.manifest import CacheSpec

__all__ = ["KVBuffers"]


class KVBuffers:
    """Keys and values of all slots.

    Layout: (layers, 2, slots, kv_heads, positions, head_dim), keys before values. The first B slots
    of one layer's keys are contiguous, so a step over B rows binds a view of them as both past and
    present, and the graph writes into the cache itself. Positions that no sequence reaches are
    never touched, so the operating system never commits memory for them.
    """

    def __init__(self, spec: CacheSpec, num_slots: int, positions: int) -> None:
        shape = (spec.layers, 2, num_slots, spec.kv_heads, positions, spec.head_dim)
        self._buffer: NDArray[Any] = np.zeros(shape, np.dtype(spec.dtype))
        self.layers = spec.layers
        self.num_slots = num_slots
        self.positions = positions

    def view(self, layer: int, part: int, rows: int) -> NDArray[Any]:
        """Keys (part 0) or values (part 1) of slots 0..rows-1: (rows, kv_heads, positions, D)."""
        return self._buffer[layer, part, :rows]

    def move_slot(self, src: int, dst: int, length: int) -> None:
        """Copy the first `length` positions of slot `src` over slot `dst`."""
        self._buffer[:, :, dst, :, :length] = self._buffer[:, :, src, :, :length]

    @property
    def nbytes(self) -> int:
        """Reserved address space; the resident part grows with use."""
        return self._buffer.nbytes
