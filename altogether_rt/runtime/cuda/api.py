"""The part of CUDA that the runtimes use: memory, copies, streams, events, captured graphs.

It is kept small so that, without a GPU, a fake can check sizes, lifetimes and order. Addresses and
handles are plain integers, as TensorRT takes them.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cuda", "HostBuffer"]


class HostBuffer(Protocol):
    """Pinned host memory, from and to which copies are asynchronous."""

    @property
    def nbytes(self) -> int: ...

    @property
    def array(self) -> NDArray[np.uint8]:
        """All of it, (nbytes,). Access it only while no copy from or to it is in progress."""


class Cuda(Protocol):
    """One GPU. Work enqueued on a stream runs asynchronously, in order; streams are concurrent."""

    def use_here(self) -> None:
        """Make the GPU current for the calling thread, before it calls anything else."""

    def malloc(self, nbytes: int) -> int:
        """Address of device memory, 256-byte aligned. Raises AltogetherError if there is none."""

    def free(self, address: int) -> None: ...

    def free_bytes(self) -> int:
        """Device memory that no program has, in bytes."""

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
        """Copy on the device: `rows` blocks of `width` bytes, `pitch` bytes apart on both sides."""

    def clear(self, address: int, nbytes: int, stream: int) -> None:
        """Set device memory to zero."""

    def create_stream(self) -> int: ...

    def destroy_stream(self, stream: int) -> None: ...

    def synchronize(self, stream: int) -> None:
        """Wait until all work enqueued on `stream` is done."""

    def create_event(self) -> int: ...

    def destroy_event(self, event: int) -> None: ...

    def record(self, event: int, stream: int) -> None:
        """`event` completes when all work enqueued on `stream` so far is done."""

    def wait(self, stream: int, event: int) -> None:
        """Work enqueued on `stream` from now on starts after `event`."""

    def synchronize_event(self, event: int) -> None:
        """Wait until `event` has completed."""

    def begin_capture(self, stream: int) -> None:
        """From now on work enqueued on `stream` is captured instead of run."""

    def end_capture(self, stream: int) -> int:
        """End the capture and return its graph, ready to launch."""

    def launch(self, graph: int, stream: int) -> None: ...

    def destroy_graph(self, graph: int) -> None: ...
