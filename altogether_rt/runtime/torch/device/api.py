"""What the runtime asks of PyTorch's CUDA: streams, events, copies that are not waited for, graphs.

It is kept small so that the CPU, and a stand-in that finds mistakes of order, can take its place.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["CudaDevice", "Download", "HostDevice", "TorchDevice"]

_WARM_UPS = 2  # before a capture, so that libraries choose their kernels and workspaces


class Download(Protocol):
    """A copy to the host that is under way."""

    def array(self) -> NDArray[Any]:
        """Wait for it; the array is the caller's."""


class TorchDevice(Protocol):
    """A device of PyTorch. Work on one stream runs in order; streams run beside each other."""

    @property
    def torch_device(self) -> torch.device: ...

    def stream(self, *, first: bool = False) -> Any:
        """A new stream. first: where both have work that could start, its work starts first."""

    def use(self, stream: Any) -> AbstractContextManager[None]:
        """What is computed in this context is computed on `stream`."""

    def record(self, stream: Any) -> Any:
        """An event that completes when all work given to `stream` so far is done."""

    def wait(self, stream: Any, event: Any) -> None:
        """Work given to `stream` from now on starts after `event`."""

    def share(self, tensor: Tensor, stream: Any) -> None:
        """`tensor`, made on another stream, is read on `stream`; its memory lasts until then."""

    def upload(self, array: NDArray[Any]) -> Tensor:
        """Copy to the device on the stream in use. `array` may change once this has returned."""

    def download(self, tensor: Tensor, stream: Any) -> Download:
        """Start a copy to the host on `stream`, which is in use."""

    def capture(self, run: Callable[[], None], stream: Any) -> Callable[[], None]:
        """Something that does what `run` did, on `stream`, at the same addresses.

        `run` is called several times before and must have the same result each time. Raises
        RuntimeError if it cannot be captured; `run` by itself may still work.
        """


class _Copied:
    def __init__(self, tensor: Tensor) -> None:
        self._array: NDArray[Any] = tensor.numpy().copy()

    def array(self) -> NDArray[Any]:
        return self._array


class HostDevice:
    """The CPU: everything is done when a call returns. Implements `TorchDevice`."""

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cpu")

    def stream(self, *, first: bool = False) -> None:
        return None

    def use(self, stream: None) -> AbstractContextManager[None]:
        return nullcontext()

    def record(self, stream: None) -> None:
        return None

    def wait(self, stream: None, event: None) -> None: ...

    def share(self, tensor: Tensor, stream: None) -> None: ...

    def upload(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.array(array))

    def download(self, tensor: Tensor, stream: None) -> Download:
        return _Copied(tensor)

    def capture(self, run: Callable[[], None], stream: None) -> Callable[[], None]:
        return run


class _Pinned:
    def __init__(self, host: Tensor, event: torch.cuda.Event) -> None:
        self._host, self._event = host, event

    def array(self) -> NDArray[Any]:
        self._event.synchronize()
        copied: NDArray[Any] = self._host.numpy().copy()  # pinned memory is scarce: give it back
        return copied


class CudaDevice:
    """One NVIDIA GPU. Implements `TorchDevice`."""

    def __init__(self, index: int = 0) -> None:
        self._device = torch.device("cuda", index)
        #: Graphs never run at the same time, so all of them share their working memory.
        self._pool: Any = None

    @property
    def torch_device(self) -> torch.device:
        return self._device

    def stream(self, *, first: bool = False) -> torch.cuda.Stream:
        priority = -1 if first else 0  # a lower number goes first
        return torch.cuda.Stream(self._device, priority)  # type: ignore[no-untyped-call]

    @contextmanager
    def use(self, stream: torch.cuda.Stream) -> Iterator[None]:
        with torch.cuda.stream(stream):
            yield

    def record(self, stream: torch.cuda.Stream) -> torch.cuda.Event:
        event: torch.cuda.Event = stream.record_event()
        return event

    def wait(self, stream: torch.cuda.Stream, event: torch.cuda.Event) -> None:
        stream.wait_event(event)

    def share(self, tensor: Tensor, stream: torch.cuda.Stream) -> None:
        tensor.record_stream(stream)

    def upload(self, array: NDArray[Any]) -> Tensor:
        # PyTorch reuses pinned memory only after the copies from it are done.
        pinned = torch.empty(array.shape, dtype=_torch_type(array.dtype), pin_memory=True)
        pinned.numpy()[...] = array
        return pinned.to(self._device, non_blocking=True)

    def download(self, tensor: Tensor, stream: torch.cuda.Stream) -> Download:
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        return _Pinned(host, stream.record_event())

    def capture(self, run: Callable[[], None], stream: torch.cuda.Stream) -> Callable[[], None]:
        for _ in range(_WARM_UPS):
            run()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may use the GPU meanwhile, for example to run another captioner.
            captured = torch.cuda.graph(
                graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
            )
            with _no_collection(), captured:
                run()
        except BaseException:
            # A capture that fails leaves the allocator recording, which then reuses no memory that
            # two streams have shared.
            with suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(self._device.index, self._pool)
            self._pool = None
            raise
        return graph.replay


@functools.cache
def _torch_type(kind: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, kind)).dtype


@contextmanager
def _no_collection() -> Iterator[None]:
    """Frees no cycles: copies that belong to them must not end while a graph is captured."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
