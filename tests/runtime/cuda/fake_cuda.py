"""CUDA without a GPU: device memory is the host's, streams are queues, and every mistake raises.

What a stream is given runs only when somebody waits for it, so a result that is read without
waiting is not there; a buffer that is touched while a copy from or to it is queued raises; so do
copies out of bounds, use after free, double free, and whatever is left over at the end.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.errors import AltogetherError
from altogether_rt.runtime.cuda.api import Cuda
from altogether_rt.runtime.cuda.sampling.candidates import LIKELIEST_NAME, candidates_model
from altogether_rt.runtime.cuda.shared_weights import SharedWeights

POISON = 0xFF  # as float32 and float16: NaN


class CudaMisuse(AssertionError):
    """Something that on a GPU would be a crash, a leak, or a wrong result now and then."""


@dataclass
class FakeBuffer:
    """Pinned memory that knows how many queued operations touch it."""

    memory: NDArray[np.uint8]
    queued: int = 0
    freed: bool = False

    @property
    def nbytes(self) -> int:
        return len(self.memory)

    @property
    def array(self) -> NDArray[np.uint8]:
        if self.freed:
            raise CudaMisuse("host memory is used after it was freed")
        if self.queued:
            raise CudaMisuse("host memory is looked at while a copy is under way")
        return self.memory


@dataclass
class _Operation:
    run: Callable[[], None]
    buffer: FakeBuffer | None = None
    ready: Callable[[], bool] = lambda: True


@dataclass
class _Event:
    recorded_on: int | None = None
    pending: int = 0  # records that have not been reached
    ever: bool = False


@dataclass
class FakeCuda:
    """Fulfils `Cuda`; `finish` says whether everything was given back."""

    budget_bytes: int = 1 << 31
    launches: int = 0
    uploads: int = 0
    threads: list[int] = field(default_factory=list)  # that the GPU was made current for
    _memory: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    _freed: set[int] = field(default_factory=set)
    _buffers: list[FakeBuffer] = field(default_factory=list)
    _streams: dict[int, deque[_Operation]] = field(default_factory=dict)
    _events: dict[int, _Event] = field(default_factory=dict)
    _graphs: dict[int, list[_Operation]] = field(default_factory=dict)
    _capturing: dict[int, list[_Operation]] = field(default_factory=dict)
    _handles: itertools.count[int] = field(default_factory=lambda: itertools.count(1000))

    def use_here(self) -> None:
        self.threads.append(threading.get_ident())

    # Memory.

    def free_bytes(self) -> int:
        return self.budget_bytes - sum(len(block) for block in self._memory.values())

    def malloc(self, nbytes: int) -> int:
        self._not_while_capturing()
        if nbytes > self.free_bytes():
            raise AltogetherError("the GPU has too little free memory: use a smaller --batch-size.")
        block = np.full(nbytes + 256, POISON, np.uint8)
        address = -(-block.ctypes.data // 256) * 256
        self._memory[address] = block[address - block.ctypes.data :][:nbytes]
        self._freed.discard(address)
        return address

    def free(self, address: int) -> None:
        if address in self._freed:
            raise CudaMisuse("device memory is freed twice")
        if address not in self._memory:
            raise CudaMisuse("what is freed was never allocated")
        if any(self._streams.values()):
            raise CudaMisuse("device memory is freed while work is queued")
        del self._memory[address]
        self._freed.add(address)

    def view(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """Device memory, for the fake's kernels. Raises CudaMisuse if it is not allocated."""
        for base, block in self._memory.items():
            if base <= address and address + nbytes <= base + len(block):
                return block[address - base :][:nbytes]
        raise CudaMisuse(f"{nbytes} bytes at {address:#x} are not within one allocation")

    def host_alloc(self, nbytes: int) -> FakeBuffer:
        buffer = FakeBuffer(np.full(nbytes, POISON, np.uint8))
        self._buffers.append(buffer)
        return buffer

    def host_free(self, buffer: FakeBuffer) -> None:
        if buffer.freed:
            raise CudaMisuse("host memory is freed twice")
        if buffer.queued:
            raise CudaMisuse("host memory is freed while a copy is under way")
        buffer.freed = True
        self._buffers = [other for other in self._buffers if other is not buffer]

    # Work.

    def upload(
        self, address: int, buffer: FakeBuffer, offset: int, nbytes: int, stream: int
    ) -> None:
        self.uploads += 1
        self._copy(buffer, offset, address, nbytes, stream, to_device=True)

    def download(
        self, buffer: FakeBuffer, offset: int, address: int, nbytes: int, stream: int
    ) -> None:
        self._copy(buffer, offset, address, nbytes, stream, to_device=False)

    def _copy(
        self,
        buffer: FakeBuffer,
        offset: int,
        address: int,
        nbytes: int,
        stream: int,
        to_device: bool,
    ) -> None:
        if buffer.freed:
            raise CudaMisuse("host memory is used after it was freed")
        if offset < 0 or offset + nbytes > buffer.nbytes:
            raise CudaMisuse(f"a copy of {nbytes} bytes leaves a host buffer of {buffer.nbytes}")
        self.view(address, nbytes)  # now, where the mistake is made

        def run() -> None:
            host, device = buffer.memory[offset : offset + nbytes], self.view(address, nbytes)
            if to_device:
                device[:] = host
            else:
                host[:] = device

        self.enqueue(stream, run, buffer)

    def copy_columns(
        self, dst: int, src: int, pitch: int, width: int, rows: int, stream: int
    ) -> None:
        if width > pitch:
            raise CudaMisuse("pieces are wider than their pitch")
        span = (rows - 1) * pitch + width
        self.view(dst, span)
        self.view(src, span)

        def run() -> None:
            for row in range(rows):
                self.view(dst + row * pitch, width)[:] = self.view(src + row * pitch, width)

        self.enqueue(stream, run)

    def clear(self, address: int, nbytes: int, stream: int) -> None:
        self.view(address, nbytes)

        def run() -> None:
            self.view(address, nbytes)[:] = 0

        self.enqueue(stream, run)

    def enqueue(
        self,
        stream: int,
        run: Callable[[], None],
        buffer: FakeBuffer | None = None,
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """Give work to a stream; the fake's kernels come in here too."""
        operation = _Operation(run, buffer, ready)
        if stream in self._capturing:
            self._capturing[stream].append(operation)
            return
        if stream not in self._streams:
            raise CudaMisuse("there is no such stream")
        self._queue(stream, operation)

    def _queue(self, stream: int, operation: _Operation) -> None:
        if operation.buffer is not None:
            operation.buffer.queued += 1
        self._streams[stream].append(operation)

    # Streams and events.

    def create_stream(self) -> int:
        handle = next(self._handles)
        self._streams[handle] = deque()
        return handle

    def destroy_stream(self, stream: int) -> None:
        if self._streams.pop(stream, None):
            raise CudaMisuse("a stream is destroyed with work in it")

    def synchronize(self, stream: int) -> None:
        self._not_while_capturing()
        self._advance(lambda: not self._streams[stream], "a stream waits for what never happens")

    def create_event(self) -> int:
        handle = next(self._handles)
        self._events[handle] = _Event()
        return handle

    def destroy_event(self, event: int) -> None:
        del self._events[event]

    def record(self, event: int, stream: int) -> None:
        state = self._events[event]
        state.pending += 1
        state.ever = True

        def reach() -> None:
            state.pending -= 1

        self.enqueue(stream, reach)

    def wait(self, stream: int, event: int) -> None:
        state = self._events[event]
        self.enqueue(stream, lambda: None, ready=lambda: state.pending == 0)

    def synchronize_event(self, event: int) -> None:
        self._not_while_capturing()
        state = self._events[event]
        if not state.ever:
            raise CudaMisuse("an event is waited for that nobody recorded")
        self._advance(lambda: state.pending == 0, "an event is never reached")

    def _advance(self, done: Callable[[], bool], stuck: str) -> None:
        """Run what is queued, newest stream first, until `done`: order comes from events alone."""
        while not done():
            for queue in reversed(list(self._streams.values())):
                if queue and queue[0].ready():
                    operation = queue.popleft()
                    operation.run()
                    if operation.buffer is not None:
                        operation.buffer.queued -= 1
                    break
            else:
                raise CudaMisuse(stuck)

    # Graphs.

    def begin_capture(self, stream: int) -> None:
        self._not_while_capturing()
        self._capturing[stream] = []

    def end_capture(self, stream: int) -> int:
        handle = next(self._handles)
        self._graphs[handle] = self._capturing.pop(stream)
        if not self._graphs[handle]:
            raise CudaMisuse("nothing was captured")
        return handle

    def launch(self, graph: int, stream: int) -> None:
        self.launches += 1
        for operation in self._graphs[graph]:
            self._queue(stream, operation)

    def destroy_graph(self, graph: int) -> None:
        del self._graphs[graph]

    def _not_while_capturing(self) -> None:
        if self._capturing:
            raise CudaMisuse("this is not allowed while a graph is captured")

    def finish(self) -> None:
        """Raises CudaMisuse for whatever was not given back."""
        left = {
            "device memory": self._memory,
            "host memory": self._buffers,
            "streams": self._streams,
            "events": self._events,
            "graphs": self._graphs,
        }
        leaks = [f"{len(things)} of {name}" for name, things in left.items() if things]
        if leaks:
            raise CudaMisuse(f"left over: {', '.join(leaks)}")


def plain_options() -> Any:
    """Nothing is computed ahead from the weights: on the CPU, float16 ones would be widened."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return options


class QueuedSession:
    """A session on the processor whose runs wait in a fake stream, as on a GPU; counts them."""

    def __init__(
        self,
        cuda: FakeCuda,
        model: Path | bytes,
        stream: int,
        weights: SharedWeights | None = None,
    ) -> None:
        """weights: read by the session where they are, instead of from the model's files."""
        options = plain_options()
        if weights is not None:
            weights.add_to(options, onnxruntime, ("cpu", 0))
        self.session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
        self._cuda, self.stream = cuda, stream
        self.runs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.runs += 1
        run = self.session.run_with_iobinding
        self._cuda.enqueue(self.stream, lambda: run(binding, options))


def graph_model(bundle: Bundle, name: str) -> Path | bytes:
    """What a session of one of a runtime's graphs is opened from."""
    if name == LIKELIEST_NAME:
        return candidates_model(bundle.config.decoder.vocab_size)
    return bundle.graph_path(name)


def as_cuda(fake: FakeCuda) -> Cuda:
    """The stand-in as the type it stands in for: it takes no buffers but its own."""
    return cast("Cuda", fake)


def as_array(view: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """A tensor in fake device memory."""
    assert view.ctypes.data % np.dtype(dtype).itemsize == 0
    array: NDArray[np.generic] = view.view(dtype).reshape(shape)
    return array
