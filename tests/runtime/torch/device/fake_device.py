"""Streams without a GPU: the CPU computes at once, and every read that a GPU could do early raises.

Each operation of PyTorch is given to the stream in use. What it reads must have been written before
it on that stream, or on one that the stream has waited for; what it overwrites must not be read by
work that may still be waiting. That is kept as vector clocks (Mattern 1989): a stream knows how far
it is certain that each other one has come.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

__all__ = ["DeviceMisuse", "FakeDevice"]

#: Work of the process itself, before and between what streams are given.
HOST = 0

Clock = dict[int, int]


class DeviceMisuse(AssertionError):
    """Something that on a GPU would be a wrong result now and then."""


@dataclass
class _Use:
    """When a tensor's memory was written and read: stream, and the count of its work."""

    written: tuple[int, int] = (HOST, 0)
    read: Clock = field(default_factory=dict)


class _Watch(TorchDispatchMode):
    """Gives every operation to the stream in use."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        schema = func._schema.arguments
        written: list[Tensor] = []
        read: list[Tensor] = []
        named = [*zip(schema, args, strict=False)]
        named += [(each, kwargs[each.name]) for each in schema if each.name in kwargs]
        for argument, value in named:
            writes = argument.alias_info is not None and argument.alias_info.is_write
            for leaf in tree_flatten(value)[0]:
                if isinstance(leaf, Tensor):
                    (written if writes else read).append(leaf)
        if not func.is_view:  # a view only names memory
            results = [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]
            self._device._operate(read, [*written, *results])
        return result


class _Waited:
    def __init__(self, device: FakeDevice, tensor: Tensor, event: Clock) -> None:
        self._device, self._tensor, self._event = device, tensor, event
        self._number = device.downloads

    def array(self) -> NDArray[Any]:
        self._device.later_downloads.append(self._device.downloads - self._number)
        self._device.synchronize(self._event)
        copied: NDArray[Any] = self._tensor.numpy().copy()
        return copied


class FakeDevice:
    """Implements `TorchDevice` on the CPU. Use it as a context around all work with it."""

    def __init__(self) -> None:
        self._clocks: dict[int, Clock] = {HOST: {HOST: 0}}
        self._current = HOST
        self._uses: dict[int, _Use] = defaultdict(_Use)
        self._alive: list[Tensor] = []  # so that no address is used twice
        self._shared: dict[int, set[int]] = defaultdict(set)
        self._capturing = False
        self.captures = 0
        self.replays = 0
        self.uploads = 0
        self.downloads = 0
        #: Of each copy to the host, when it was waited for: those begun after it.
        self.later_downloads: list[int] = []
        self.order: list[int] = []  # streams, as they were given work
        self._watch = _Watch(self)

    def __enter__(self) -> FakeDevice:
        self._watch.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._watch.__exit__(*error)

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cpu")

    def stream(self, *, first: bool = False) -> int:
        number = len(self._clocks)
        self._clocks[number] = {number: 0}
        return number

    @contextmanager
    def use(self, stream: int) -> Iterator[None]:
        before, self._current = self._current, stream
        try:
            yield
        finally:
            self._current = before

    def record(self, stream: int) -> Clock:
        return dict(self._seen_by(stream))

    def wait(self, stream: int, event: Clock) -> None:
        _merge(self._clocks[stream], event)

    def share(self, tensor: Tensor, stream: int) -> None:
        self._shared[_memory(tensor)].add(stream)

    def upload(self, array: NDArray[Any]) -> Tensor:
        self._not_while_capturing()
        self.uploads += 1
        return torch.from_numpy(np.array(array)).clone()

    def download(self, tensor: Tensor, stream: int) -> _Waited:
        self._not_while_capturing()
        if stream != self._current:
            raise DeviceMisuse("a copy is started on a stream that is not in use")
        self.downloads += 1
        return _Waited(self, tensor.clone(), self.record(stream))

    def synchronize(self, event: Clock) -> None:
        """The host waits for `event`."""
        _merge(self._clocks[HOST], event)

    def capture(self, run: Callable[[], None], stream: int) -> Callable[[], None]:
        if stream != self._current:
            raise DeviceMisuse("a graph is captured on a stream that is not in use")
        run()
        self._capturing = True
        try:
            run()
        finally:
            self._capturing = False
        self.captures += 1

        def replay() -> None:
            self.replays += 1
            run()

        return replay

    def _operate(self, read: list[Tensor], written: list[Tensor]) -> None:
        stream, clock = self._current, self._seen_by(self._current)
        clock[stream] += 1
        self.order.append(stream)
        # Those without elements have no memory, and all of them the address 0.
        read, written = ([each for each in some if each.nbytes] for some in (read, written))
        for tensor in read:
            use = self._uses[_memory(tensor)]
            if clock.get(use.written[0], 0) < use.written[1]:
                raise DeviceMisuse(f"stream {stream} reads what {use.written[0]} may not have done")
            foreign = use.written[0] not in (HOST, stream) and stream != HOST
            if foreign and stream not in self._shared[_memory(tensor)]:
                raise DeviceMisuse("memory of another stream is read without being shared")
            use.read[stream] = clock[stream]
        for tensor in written:
            use = self._uses[_memory(tensor)]
            for other, count in (*use.read.items(), use.written):
                if clock.get(other, 0) < count:
                    raise DeviceMisuse(f"stream {stream} overwrites what {other} may still use")
            use.written, use.read = (stream, clock[stream]), {}
        self._alive += [*read, *written]

    def _seen_by(self, stream: int) -> Clock:
        """A stream's clock: what the host has seen by now was done before it gave this work."""
        _merge(self._clocks[stream], self._clocks[HOST])
        return self._clocks[stream]

    def _not_while_capturing(self) -> None:
        if self._capturing:
            raise DeviceMisuse("a copy from or to the host while a graph is captured")


def _merge(clock: Clock, other: Clock) -> None:
    for stream, count in other.items():
        clock[stream] = max(clock.get(stream, 0), count)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
