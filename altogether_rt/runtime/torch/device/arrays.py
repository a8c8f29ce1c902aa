"""Arrays on the device, handed from encoder to mapper to decoder without a copy to the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from altogether_rt.runtime.base import Array
from altogether_rt.runtime.torch.device.api import TorchDevice

__all__ = ["ArrayContext", "TorchArray"]


@dataclass(frozen=True)
class ArrayContext:
    """The device that arrays are on, and the stream on which they are copied to the host."""

    device: TorchDevice
    copies: Any


@dataclass(frozen=True)
class _Piece:
    """Rows that one stream computes: a tensor, the event after which it is there, the stream."""

    tensor: Tensor
    ready: Any
    stream: Any


class TorchArray:
    """Rows of tensors that may still be computed; implements `DeviceArray`.

    It is put together on the stream that asks for it, which first waits for what it is made of.
    """

    def __init__(
        self, context: ArrayContext, pieces: Sequence[_Piece | NDArray[np.float32]]
    ) -> None:
        assert pieces
        self._context = context
        self._pieces = tuple(pieces)

    @classmethod
    def computed(cls, context: ArrayContext, tensor: Tensor, stream: Any) -> TorchArray:
        """What was just computed on `stream`."""
        return cls(context, [_Piece(tensor, context.device.record(stream), stream)])

    def on(self, stream: Any) -> Tensor:
        """The tensor, for work on `stream`, which is in use."""
        device = self._context.device
        tensors, awaited = [], set()
        for piece in self._pieces:
            if isinstance(piece, np.ndarray):
                tensors.append(device.upload(piece))
                continue
            if id(piece.ready) not in awaited:
                device.wait(stream, piece.ready)
                awaited.add(id(piece.ready))
            device.share(piece.tensor, stream)
            tensors.append(piece.tensor)
        if len(tensors) == 1:
            return tensors[0]
        return _joined(tensors)

    @property
    def shape(self) -> tuple[int, ...]:
        shapes = [_shape(piece) for piece in self._pieces]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[TorchArray]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> TorchArray:
        for piece in self._pieces:
            if index < len(_values(piece)):
                if isinstance(piece, np.ndarray):
                    return TorchArray(self._context, [piece[index]])
                return TorchArray(self._context, [replace(piece, tensor=piece.tensor[index])])
            index -= len(_values(piece))
        raise IndexError(index)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.float32]:
        device, copies = self._context.device, self._context.copies
        with device.use(copies):
            download = device.download(self.on(copies).float(), copies)
        return download.array().astype(np.float32 if dtype is None else dtype, copy=False)

    def join(self, parts: Sequence[Array]) -> TorchArray:
        return TorchArray(self._context, [piece for part in parts for piece in _pieces(part)])

    def stack(self, rows: Sequence[Array]) -> TorchArray:
        pieces: list[_Piece | NDArray[np.float32]] = []
        for row in rows:
            (piece,) = _pieces(row)  # a row is never made of several
            if isinstance(piece, np.ndarray):
                pieces.append(piece[None])
            else:
                pieces.append(replace(piece, tensor=piece.tensor[None]))
        return TorchArray(self._context, pieces)

    def mean(self) -> TorchArray:
        # By the stream that computes the last of it: nothing else has to wait for that.
        streams = [piece.stream for piece in self._pieces if isinstance(piece, _Piece)]
        stream = streams[-1] if streams else self._context.copies
        with self._context.device.use(stream):
            tensor = self.on(stream)
            mean = tensor.mean(dim=tuple(range(tensor.ndim - 1)), dtype=torch.float32)
            return TorchArray.computed(self._context, mean, stream)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """One after another; no copy if they are neighbours in memory, as rows of one batch are."""
    first, size = tensors[0], tensors[0].element_size()
    address = first.data_ptr()
    for tensor in tensors:
        neighbours = (
            tensor.data_ptr() == address
            and tensor.is_contiguous()
            and tensor.dtype == first.dtype
            and tensor.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        )
        if not neighbours:
            kind = next(t.dtype for t in tensors)
            return torch.cat([each.to(kind) for each in tensors])
        address += tensor.numel() * size
    rows = sum(len(tensor) for tensor in tensors)
    return first.as_strided((rows, *first.shape[1:]), first.stride(), first.storage_offset())


def _pieces(array: Array) -> Sequence[_Piece | NDArray[np.float32]]:
    if isinstance(array, TorchArray):
        return array._pieces
    return [np.asarray(array)]


def _values(piece: _Piece | NDArray[np.float32]) -> Tensor | NDArray[np.float32]:
    return piece if isinstance(piece, np.ndarray) else piece.tensor


def _shape(piece: _Piece | NDArray[np.float32]) -> tuple[int, ...]:
    return tuple(_values(piece).shape)
