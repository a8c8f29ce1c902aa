"""Encoder and mapper on a GPU, in chunks: copies of one overlap the computation of another.

    copy stream     | upload 0 | upload 1 |          | upload 2 | …
    compute stream             | run 0    | down 0   | run 1    | down 1 …

Two sets of buffers alternate. Nothing here is shared with the decoder, so another thread may encode
while the decoder runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from altogether_rt.artifacts.manifest import GraphSpec
from altogether_rt.errors import BundleError
from altogether_rt.runtime.cuda.api import Cuda, HostBuffer
from altogether_rt.runtime.cuda.graph import DeviceContext, DeviceGraph, Tensor

__all__ = ["BatchShape", "VisionGraph", "VisionStreams", "batch_shape"]

_SETS = 2


@dataclass(frozen=True)
class BatchShape:
    """The input and output of a graph with one batch of each, (N, *item)."""

    input_name: str
    output_name: str
    input_item: tuple[int, ...]
    output_item: tuple[int, ...]
    input_dtype: str
    output_dtype: str
    min_images: int  # bounds of N
    max_images: int

    @property
    def input_bytes(self) -> int:
        """Bytes of the input of one image."""
        return int(np.prod(self.input_item)) * np.dtype(self.input_dtype).itemsize

    @property
    def output_bytes(self) -> int:
        """Bytes of the output of one image."""
        return int(np.prod(self.output_item)) * np.dtype(self.output_dtype).itemsize

    def region_bytes(self) -> dict[str, int]:
        """Device memory that a `VisionGraph` needs: bytes by the name of the region within it."""
        return {
            f"{kind}.{turn}": nbytes * self.max_images
            for turn in range(_SETS)
            for kind, nbytes in (("input", self.input_bytes), ("output", self.output_bytes))
        }


def batch_shape(name: str, graph: GraphSpec, min_images: int, max_images: int) -> BatchShape:
    """The batch shape of a graph with one input and one output.

    Raises BundleError if it has more.
    """
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise BundleError(
            f"the {name} of this bundle has unknown inputs or outputs: update altogether-rt."
        )
    (source,), (result,) = graph.inputs, graph.outputs
    return BatchShape(
        source.name,
        result.name,
        tuple(map(int, source.shape[1:])),
        tuple(map(int, result.shape[1:])),
        source.dtype,
        result.dtype,
        min_images,
        max_images,
    )


class VisionStreams:
    """The two streams that encoder and mapper share."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.copy, self.compute = cuda.create_stream(), cuda.create_stream()

    def synchronize(self) -> None:
        """Wait for all work enqueued on them."""
        for stream in (self.copy, self.compute):
            self._cuda.synchronize(stream)

    def close(self) -> None:
        for stream in (self.copy, self.compute):
            self._cuda.destroy_stream(stream)


@dataclass
class _Turn:
    """One set of buffers, and the chunk that is in progress in it."""

    host_input: HostBuffer
    host_output: HostBuffer
    device_input: int
    device_output: int
    uploaded: int  # events
    computed: int
    images: slice | None = None  # of the batch, whose results are still to be fetched


class VisionGraph:
    """The encoder or the mapper, run over any number of images."""

    def __init__(
        self,
        cuda: Cuda,
        graph: DeviceGraph,
        shape: BatchShape,
        streams: VisionStreams,
        addresses: dict[str, int],
        scratch: int,
    ) -> None:
        """addresses: device addresses of the regions of `BatchShape.region_bytes`."""
        self._cuda = cuda
        self._shape = shape
        self._streams = streams
        self._context: DeviceContext = graph.context(0, scratch, streams.compute)
        self._turns = [
            _Turn(
                cuda.host_alloc(shape.input_bytes * shape.max_images),
                cuda.host_alloc(shape.output_bytes * shape.max_images),
                addresses[f"input.{turn}"],
                addresses[f"output.{turn}"],
                cuda.create_event(),
                cuda.create_event(),
            )
            for turn in range(_SETS)
        ]

    def run(self, batch: NDArray[np.generic]) -> NDArray[np.float32]:
        """(N, *input_item) to (N, *output_item)."""
        shape = self._shape
        assert batch.shape[1:] == shape.input_item, f"{batch.shape} is not a batch of this graph"
        results = np.empty((len(batch), *shape.output_item), np.float32)
        for number, start in enumerate(range(0, len(batch), shape.max_images)):
            turn = self._turns[number % _SETS]
            self._fetch(turn, results)  # the chunk before the last; its buffers are free then
            images = slice(start, min(start + shape.max_images, len(batch)))
            self._start(turn, batch[images], images)
        number = -(-len(batch) // shape.max_images)
        for late in range(number, number + _SETS):  # oldest first
            self._fetch(self._turns[late % _SETS], results)
        return results

    def _start(self, turn: _Turn, chunk: NDArray[np.generic], images: slice) -> None:
        cuda, shape = self._cuda, self._shape
        copy, compute = self._streams.copy, self._streams.compute
        size = max(min(1 << (len(chunk) - 1).bit_length(), shape.max_images), shape.min_images)
        data = np.ascontiguousarray(chunk, shape.input_dtype).view(np.uint8).reshape(-1)
        block = turn.host_input.array
        block[: len(data)] = data
        block[len(data) : size * shape.input_bytes] = 0  # padding must be finite
        cuda.upload(turn.device_input, turn.host_input, 0, size * shape.input_bytes, copy)
        cuda.record(turn.uploaded, copy)
        cuda.wait(compute, turn.uploaded)
        self._context.bind(
            {shape.input_name: Tensor(turn.device_input, (size, *shape.input_item))},
            {shape.output_name: Tensor(turn.device_output, (size, *shape.output_item))},
        )
        self._context.run(compute)
        nbytes = len(chunk) * shape.output_bytes
        cuda.download(turn.host_output, 0, turn.device_output, nbytes, compute)
        cuda.record(turn.computed, compute)
        turn.images = images

    def _fetch(self, turn: _Turn, results: NDArray[np.float32]) -> None:
        if turn.images is None:
            return
        self._cuda.synchronize_event(turn.computed)
        count = turn.images.stop - turn.images.start
        data = turn.host_output.array[: count * self._shape.output_bytes]
        found = data.view(self._shape.output_dtype).reshape(count, *self._shape.output_item)
        results[turn.images] = found
        turn.images = None

    def close(self) -> None:
        """Free buffers and events; the streams must be idle."""
        self.__dict__.pop("_context", None)
        for turn in self._turns:
            self._cuda.host_free(turn.host_input)
            self._cuda.host_free(turn.host_output)
            self._cuda.destroy_event(turn.uploaded)
            self._cuda.destroy_event(turn.computed)
