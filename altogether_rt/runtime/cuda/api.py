"""What of CUDA the runtimes need: memory, copies, streams, events, captured graphs.

Thin on purpose, so that a stand-in can check sizes, lifetimes and order where there is no GPU.
Addresses and handles are plain integers, as TensorRT wants them.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cuda", "HostBuffer"]


class HostBuffer(Protocol):
    """Pinned host memory: copies from and to it are asynchronous."""

    @property
    def nbytes(self) -> int: ...

    @property
    def array(self) -> NDArray[np.uint8]:
        """All of it, (nbytes,). Look at it only when no copy from or to it can be under way."""


class Cuda(Protocol):
    """One GPU. Work given to a stream runs later, in order; streams run beside each other."""

    def malloc(self, nbytes: int) -> int:
        """Address of device memory, 256-byte aligned. Raises AltogetherError if there is none."""

    def free(self, address: int) -> None: ...

    def host_alloc(self, nbytes: int) -> HostBuffer: ...

    def host_free(self, buffer: HostBuffer) -> None: ...

    def upload(
        self, address: int, buffer: HostBuffer, offset: int, nbytes: int, stream: int
    ) -> None:
        """Copy `nbytes` of `buffer` from `offset` to the device."""

    def download(
        self, buffer: HostBuffer, offset: int, address: int, nbytes: int, stream: int
    ) -> None:
        """Copy `nbytes` from the device to `buffer` at `offset`."""

    def copy_columns(
        self, dst: int, src: int, pitch: int, width: int, rows: int, stream: int
    ) -> None:
        """Copy on the device: `rows` pieces of `width` bytes, `pitch` bytes apart on both sides."""

    def clear(self, address: int, nbytes: int, stream: int) -> None:
        """Set device memory to zero."""

    def create_stream(self) -> int: ...

    def destroy_stream(self, stream: int) -> None: ...

    def synchronize(self, stream: int) -> None:
        """Wait until all work given to `stream` is done."""

    def create_event(self) -> int: ...

    def destroy_event(self, event: int) -> None: ...

    def record(self, event: int, stream: int) -> None:
        """`event` is reached when all work given to `stream` so far is done."""

    def wait(self, stream: int, event: int) -> None:
        """Work given to `stream` from now on starts after `event`."""

    def synchronize_event(self, event: int) -> None:
        """Wait until `event` is reached."""

    def begin_capture(self, stream: int) -> None:
        """Work given to `stream` is noted down instead of run."""

    def end_capture(self, stream: int) -> int:
        """The graph of what was noted down."""

    def launch(self, graph: int, stream: int) -> None: ...

    def destroy_graph(self, graph: int) -> None: ...
