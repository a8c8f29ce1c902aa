"""CUDA through cuda-python."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from altogether_rt.errors import AltogetherError, MissingDependencyError
from altogether_rt.runtime.cuda.api import HostBuffer

__all__ = ["CudaPython", "PinnedBuffer"]


class PinnedBuffer:
    """Page-locked memory as a NumPy array; implements `HostBuffer`."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.address = address
        self.nbytes = nbytes
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array(
            (ctypes.c_uint8 * nbytes).from_address(address)
        )


class CudaPython:
    """One GPU through CUDA's runtime API; implements `Cuda`.

    The GPU is made current for the thread that creates this; another thread must call `use_here`
    before it uses it.
    """

    def __init__(self, index: int = 0, bindings: Any = None) -> None:
        """bindings: the module `cuda.bindings.runtime`; imported if None.

        Raises MissingDependencyError without cuda-python, AltogetherError if CUDA does not start.
        """
        self._cudart = _import_bindings() if bindings is None else bindings
        self._index = index
        self._graphs: dict[int, Any] = {}  # the bindings take only their own objects
        self.use_here()

    def use_here(self) -> None:
        """Make the GPU current for the calling thread."""
        self._call("cudaSetDevice", self._index)

    def malloc(self, nbytes: int) -> int:
        return int(self._call("cudaMalloc", nbytes))

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def free_bytes(self) -> int:
        return int(self._call("cudaMemGetInfo"))

    def host_alloc(self, nbytes: int) -> HostBuffer:
        return PinnedBuffer(int(self._call("cudaMallocHost", nbytes)), nbytes)

    def host_free(self, buffer: HostBuffer) -> None:
        self._call("cudaFreeHost", _address(buffer))

    def upload(
        self, address: int, buffer: HostBuffer, offset: int, nbytes: int, stream: int
    ) -> None:
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, _address(buffer) + offset, nbytes, kind, stream)

    def download(
        self, buffer: HostBuffer, offset: int, address: int, nbytes: int, stream: int
    ) -> None:
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", _address(buffer) + offset, address, nbytes, kind, stream)

    def copy_columns(
        self, dst: int, src: int, pitch: int, width: int, rows: int, stream: int
    ) -> None:
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpy2DAsync", dst, pitch, src, pitch, width, rows, kind, stream)

    def clear(self, address: int, nbytes: int, stream: int) -> None:
        self._call("cudaMemsetAsync", address, 0, nbytes, stream)

    def create_stream(self) -> int:
        # Non-blocking: it does not wait for the default stream, which other code may use.
        return int(self._call("cudaStreamCreateWithFlags", self._cudart.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def create_event(self) -> int:
        return int(self._call("cudaEventCreateWithFlags", self._cudart.cudaEventDisableTiming))

    def destroy_event(self, event: int) -> None:
        self._call("cudaEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        self._call("cudaEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def synchronize_event(self, event: int) -> None:
        self._call("cudaEventSynchronize", event)

    def begin_capture(self, stream: int) -> None:
        # Thread-local: calls of other threads, which may be encoding, do not break the capture.
        mode = self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        template = self._call("cudaStreamEndCapture", stream)
        graph = self._call("cudaGraphInstantiate", template, 0)
        self._call("cudaGraphDestroy", template)
        self._graphs[int(graph)] = graph
        return int(graph)

    def launch(self, graph: int, stream: int) -> None:
        self._call("cudaGraphLaunch", self._graphs[graph], stream)

    def destroy_graph(self, graph: int) -> None:
        self._call("cudaGraphExecDestroy", self._graphs.pop(graph))

    def _call(self, function: str, *arguments: Any) -> Any:
        """Call a function of CUDA and return its value, without the error code."""
        code, *values = getattr(self._cudart, function)(*arguments)
        if int(code):
            name = getattr(code, "name", str(code))
            if name == "cudaErrorMemoryAllocation":
                raise AltogetherError(
                    "the GPU has too little free memory: use a smaller --batch-size, or stop other "
                    "programs that use it (see nvidia-smi)."
                )
            raise AltogetherError(
                f"CUDA failed ({function}: {name}): check nvidia-smi for cuda:{self._index}."
            )
        return values[0] if values else None


def _address(buffer: HostBuffer) -> int:
    assert isinstance(buffer, PinnedBuffer)
    return buffer.address


def _import_bindings() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise MissingDependencyError("cuda-python", "tensorrt", "captioning on a GPU") from error
    return runtime
