"""Reads and writes the weights of an export, one tensor at a time.

A checkpoint of the published size may not fit in memory twice, so each tensor is read from the
memory-mapped checkpoint when a layer needs it, and written to the bundle's weights file at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from altogether_rt.errors import AltogetherError, reason

if TYPE_CHECKING:
    import onnx

__all__ = ["MappedWeights", "SafetensorsWeights", "WeightSource", "WeightsFile"]

#: Smaller tensors are stored inside the graph, where shape inference can read them.
MIN_EXTERNAL_BYTES = 1024
#: A tensor of a page or more starts on a page, so that it can be mapped; smaller ones on 64 bytes.
PAGE_BYTES = 4096
SMALL_ALIGNMENT_BYTES = 64


class WeightSource(Protocol):
    """The tensors of a checkpoint by name."""

    def get(self, name: str) -> NDArray[np.float32]:
        """The tensor as float32. Raises KeyError if there is none."""

    def __contains__(self, name: str) -> bool: ...


class MappedWeights:
    """Tensors that are already in memory."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        self._tensors = tensors

    def get(self, name: str) -> NDArray[np.float32]:
        return self._tensors[name].astype(np.float32, copy=False)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors


class SafetensorsWeights:
    """Tensors of a safetensors file, read one by one."""

    def __init__(self, path: Path) -> None:
        """Raises AltogetherError for a file that safetensors does not open."""
        from safetensors import SafetensorError, safe_open

        try:
            file = safe_open(path, framework="pt")  # torch: NumPy has no bfloat16
        except SafetensorError as error:  # the folder's name is not UTF-8, for one
            raise AltogetherError(f"{path} cannot be read: {reason(error)}.") from error
        self._file = cast("Any", file)
        self._names = frozenset(self._file.keys())

    def get(self, name: str) -> NDArray[np.float32]:
        if name not in self._names:
            raise KeyError(name)
        array: NDArray[np.float32] = self._file.get_tensor(name).float().numpy()
        return array

    def __contains__(self, name: str) -> bool:
        return name in self._names


class WeightsFile:
    """The bundle's weights file, shared by its graphs.

    A tensor whose name begins with `shared` is written once, however many graphs have it.
    """

    def __init__(self, path: Path, shared: str | tuple[str, ...] = ()) -> None:
        self.path = path
        self._shared = shared
        self._written: dict[str, onnx.TensorProto] = {}  # by name
        self._stream: IO[bytes] = open(path, "wb")  # noqa: SIM115 - closed by __exit__
        self._size = 0

    def tensor(self, name: str, array: NDArray[Any]) -> onnx.TensorProto:
        """Store `array` in the file, or inside the graph if it is small; return the initializer."""
        import onnx  # not where a checkpoint is opened, which only reads weights

        array = np.asarray(array, order="C")  # ascontiguousarray would make a scalar a vector
        if array.nbytes < MIN_EXTERNAL_BYTES:
            return onnx.numpy_helper.from_array(array, name)
        if name in self._written:
            known = self._written[name]
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            dims = tuple(known.dims)
            assert (known.data_type, dims) == (kind, array.shape), name
            return known
        proto = onnx.TensorProto(
            name=name,
            data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        offset = self._append(array)
        for key, value in (
            ("location", self.path.name),
            ("offset", offset),
            ("length", array.nbytes),
        ):
            proto.external_data.add(key=key, value=str(value))
        if name.startswith(self._shared):
            self._written[name] = proto
        return proto

    def _append(self, array: NDArray[Any]) -> int:
        alignment = PAGE_BYTES if array.nbytes >= PAGE_BYTES else SMALL_ALIGNMENT_BYTES
        padding = -self._size % alignment
        self._stream.write(bytes(padding))
        offset = self._size + padding
        array.tofile(self._stream)
        self._size = offset + array.nbytes
        return offset

    def __enter__(self) -> WeightsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
