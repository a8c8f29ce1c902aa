"""The decoder's weights on a GPU once, for all graphs that read them.

onnxruntime copies a graph's weights to the GPU for every session, unless a session is given
tensors in the memory of the right device: those it reads where they are
(`SaveInitializedTensors` in its session_state_utils.cc). It takes only tensors whose memory it does
not own, and Python makes such a tensor of device memory when it binds an output to an address.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.manifest import DECODER_GRAPHS
from altogether_rt.runtime.cuda.api import Cuda
from altogether_rt.runtime.cuda.memory_plan import plan_device
from altogether_rt.runtime.graph_files import ExternalTensor, external_tensors
from altogether_rt.runtime.tiny_onnx import matmul_model

__all__ = ["NotSharedError", "SharedWeights", "graph_bytes", "shared_tensors"]

#: Bytes of a copy to the device, through pinned memory.
_CHUNK_BYTES = 64 << 20
#: Device memory that opening a session takes in any case, at most: handles of libraries and their
#: workspaces.
_SESSION_BYTES = 256 << 20


class NotSharedError(Exception):
    """onnxruntime does not read the weights where they are; the text says how that was seen."""


def shared_tensors(bundle: Bundle) -> dict[str, ExternalTensor]:
    """The weights that several of the decoder's graphs have, by name; none if there is one graph.

    A name that stands for unlike weights is left out.
    """
    found: dict[str, list[ExternalTensor]] = {}
    for graph in sorted(set(DECODER_GRAPHS) & set(bundle.manifest.graphs)):
        for name, tensor in external_tensors(bundle.graph_path(graph)).items():
            found.setdefault(name, []).append(tensor)
    files = bundle.manifest.files
    return {
        name: tensors[0]
        for name, tensors in found.items()
        if len(tensors) > 1
        and len(set(tensors)) == 1
        and tensors[0].nbytes > 0
        and tensors[0].location in files
        and tensors[0].offset + tensors[0].nbytes <= files[tensors[0].location].bytes
    }


def graph_bytes(bundle: Bundle, name: str) -> int:
    """Bytes of a graph's weights; 0 if the bundle has no such graph."""
    if name not in bundle.manifest.graphs:
        return 0
    return sum(tensor.nbytes for tensor in external_tensors(bundle.graph_path(name)).values())


class SharedWeights:
    """Weights in one block of device memory, and as tensors that a session takes."""

    def __init__(self, cuda: Cuda, folder: Path, tensors: Mapping[str, ExternalTensor]) -> None:
        """Read `tensors` from their files in `folder` and copy them to the device; they are there
        when this returns.

        Raises AltogetherError if the GPU has too little free memory.
        """
        self._cuda = cuda
        self._tensors = dict(tensors)
        plan = plan_device({name: tensor.nbytes for name, tensor in tensors.items()})
        self.nbytes = plan.nbytes
        self._base = cuda.malloc(plan.nbytes)
        self.addresses = {n: self._base + region.offset for n, region in plan.regions.items()}
        self._values: dict[str, tuple[Any, Any]] = {}  # bindings and the tensors in them
        self._closed = False
        try:
            self._upload(folder)
        except BaseException:
            self.close()
            raise

    def add_to(self, options: Any, ort: Any, device: tuple[str, int]) -> None:
        """Let sessions of `options` read the weights where they are.

        device: as onnxruntime names it, ("cuda", 0). The tensors live as long as this object, which
        has to outlive the sessions. Raises NotSharedError if onnxruntime takes none of them.
        """
        try:
            if not self._values:
                self._values = self._bound(ort, device)
            for name, (_, value) in self._values.items():
                options.add_initializer(name, value)
        except Exception as error:  # onnxruntime's exceptions share no public base
            raise NotSharedError((str(error).splitlines() or [""])[0]) from error

    def check_used(self, free_before: int) -> None:
        """Raises NotSharedError if a session has been opened that copied the weights nevertheless.

        free_before: free device memory before that, in bytes. onnxruntime says it in its log alone.
        """
        taken = free_before - self._cuda.free_bytes()
        if taken > self.nbytes // 2 + _SESSION_BYTES:
            raise NotSharedError(f"opening a graph took {taken / 1e9:.1f} GB of the GPU")

    def close(self) -> None:
        """Free the device memory; no session may run from now on."""
        if not self._closed:
            self._closed = True
            self._cuda.free(self._base)

    def _bound(self, ort: Any, device: tuple[str, int]) -> dict[str, tuple[Any, Any]]:
        """A tensor for each weight, with the binding that owns it but not its memory."""
        model = matmul_model(np.zeros((1, 1), np.float32))
        session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        (output,) = session.get_outputs()
        values = {}
        for name, tensor in self._tensors.items():
            binding = session.io_binding()
            memory = (*device, np.dtype(tensor.dtype).type, tensor.shape, self.addresses[name])
            binding.bind_output(output.name, *memory)
            (value,) = binding.get_outputs()
            values[name] = binding, value
        return values

    def _upload(self, folder: Path) -> None:
        cuda, stream = self._cuda, self._cuda.create_stream()
        largest = max((tensor.nbytes for tensor in self._tensors.values()), default=0)
        buffer = cuda.host_alloc(max(1, min(_CHUNK_BYTES, largest)))
        try:
            for name, tensor in self._tensors.items():
                path = folder / tensor.location
                values = np.memmap(path, np.uint8, "r", tensor.offset, (tensor.nbytes,))
                for start in range(0, tensor.nbytes, buffer.nbytes):
                    chunk = values[start : start + buffer.nbytes]
                    buffer.array[: len(chunk)] = chunk
                    address = self.addresses[name] + start
                    cuda.upload(address, buffer, 0, len(chunk), stream)
                    cuda.synchronize(stream)
        finally:
            cuda.host_free(buffer)
            cuda.destroy_stream(stream)
