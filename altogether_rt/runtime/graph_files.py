"""Which files the graphs of a bundle open, read from the graphs without a library.

An ONNX graph may keep its weights in other files, at any path. The manifest lists those whose
hashes were checked, so a graph that names another one is refused. So is one with an operator that
loads compiled code by a path. ONNX is protobuf: see `tiny_onnx` for its form.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.errors import BundleError

__all__ = ["ExternalTensor", "check_graph_files", "external_tensors"]

#: Largest graph that is read; its weights are in another file.
_MAX_GRAPH_BYTES: Final = 256 << 20
_MAX_DEPTH: Final = 64

#: Kind of message -> numbers of the fields that lead to tensors, and what is in them.
_FIELDS: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {4: "operator", 5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "sparse": {1: "tensor", 2: "tensor"},
    "training": {1: "graph", 2: "graph"},
    "tensor": {13: "external"},
    "external": {},
    "operator": {},
}
_FORBIDDEN: Final = frozenset({b"EPContext", b"PyOp"})
#: TensorProto.DataType -> NumPy's name, of the types that weights have.
_DTYPES: Final = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    10: "float16",
}


def check_graph_files(bundle: Bundle) -> None:
    """Raises BundleError if a graph maps a file, or a part of one, that was not hashed with it."""
    for name, spec in bundle.manifest.graphs.items():
        path = bundle.graph_path(name)
        if bundle.manifest.files[spec.file].bytes > _MAX_GRAPH_BYTES:
            raise BundleError(f"{path} is too large for a graph: export the bundle again.")
        try:
            parts = list(_walk("model", memoryview(path.read_bytes())))
        except (ValueError, OSError) as error:
            raise BundleError(
                f"{path} is not an ONNX graph ({error}): export the bundle again."
            ) from error
        for kind, part in parts:
            if kind == "operator" and bytes(part) in _FORBIDDEN:
                raise BundleError(
                    f"{path} has the operator {bytes(part).decode()}, which runs code from "
                    "elsewhere: give a bundle made by altogether-rt export."
                )
            if kind == "external":
                key, value = _entry(part)
                if key == "location" and value not in spec.weights:
                    raise BundleError(
                        f"{path} maps {value!r:.100}, which its manifest does not list with it: "
                        "give a bundle made by altogether-rt export."
                    )


@dataclass(frozen=True)
class ExternalTensor:
    """A weight of a graph, and the part of a file that holds its values."""

    dtype: str  # NumPy's name
    shape: tuple[int, ...]
    location: str  # of the file, relative to the graph's folder
    offset: int  # in bytes

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def external_tensors(path: Path) -> dict[str, ExternalTensor]:
    """The weights of a graph that are in other files, by name, but for those whose type NumPy lacks
    or whose size is not what their shape says.

    Raises BundleError if it is not an ONNX graph.
    """
    try:
        return dict(_external_tensors(memoryview(path.read_bytes())))
    except (ValueError, OSError) as error:
        raise BundleError(
            f"{path} is not an ONNX graph ({error}): export the bundle again."
        ) from error


def _external_tensors(model: memoryview) -> Iterator[tuple[str, ExternalTensor]]:
    graphs = (graph for number, graph in _fields(model) if number == 7)
    for graph in graphs:
        for number, tensor in _fields(graph if isinstance(graph, memoryview) else memoryview(b"")):
            if number != 5 or not isinstance(tensor, memoryview):
                continue
            name, found = _tensor(tensor)
            if found is not None:
                yield name, found


def _tensor(message: memoryview) -> tuple[str, ExternalTensor | None]:
    """Name of a tensor and where its values are; None if they are not in a file."""
    name, kind, dims, entries = "", 0, list[int](), dict[str, str]()
    for number, value in _fields(message):
        if number == 1:
            dims += [value] if isinstance(value, int) else _packed(value)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8 and isinstance(value, memoryview):
            name = bytes(value).decode("utf-8", "replace")
        elif number == 13 and isinstance(value, memoryview):
            key, entry = _entry(value)
            entries[key] = entry
    if kind not in _DTYPES or "location" not in entries:
        return name, None
    offset, length = (int(entries.get(key, "0")) for key in ("offset", "length"))
    found = ExternalTensor(_DTYPES[kind], tuple(dims), entries["location"], offset)
    whole = offset >= 0 and length == found.nbytes
    return name, found if whole else None


def _packed(message: memoryview | None) -> list[int]:
    numbers, position = [], 0
    while message is not None and position < len(message):
        number, position = _varint(message, position)
        numbers.append(number)
    return numbers


def _walk(kind: str, message: memoryview, depth: int = 0) -> Iterator[tuple[str, memoryview]]:
    """Operators and entries of external data in a message, with what they are in."""
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    wanted = _FIELDS[kind]
    for number, value in _fields(message):
        inner = wanted.get(number)
        if inner is None or not isinstance(value, memoryview):
            continue
        if inner in ("operator", "external"):
            yield inner, value
        else:
            yield from _walk(inner, value, depth + 1)


def _entry(message: memoryview) -> tuple[str, str]:
    """Key and value of an entry of external data."""
    fields = {
        number: bytes(value) for number, value in _fields(message) if isinstance(value, memoryview)
    }
    return tuple(fields.get(number, b"").decode("utf-8", "replace") for number in (1, 2))  # type: ignore[return-value]


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int | None]]:
    """(number, bytes or value) of each field; None for a value of fixed size."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind, size, value = key & 7, 0, 0
        if kind == 0:
            value, position = _varint(message, position)
        elif kind == 2:
            size, position = _varint(message, position)
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            raise ValueError(f"it has a field of kind {kind}")
        if position + size > len(message):
            raise ValueError("it is cut off")
        whole = message[position : position + size]
        yield key >> 3, value if kind == 0 else whole if kind == 2 else None
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message) or shift > 63:
            raise ValueError("it is cut off")
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
