"""Which files the graphs of a bundle open, read from the graphs without a library.

An ONNX graph may keep its weights in other files, at any path. The manifest lists those whose
hashes were checked, so a graph that names another one is refused. So is one with an operator that
loads compiled code by a path. ONNX is protobuf: see `tiny_onnx` for its form.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.errors import BundleError

__all__ = ["check_graph_files"]

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


def _walk(kind: str, message: memoryview, depth: int = 0) -> Iterator[tuple[str, memoryview]]:
    """Operators and entries of external data in a message, with what they are in."""
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    wanted = _FIELDS[kind]
    for number, value in _fields(message):
        inner = wanted.get(number)
        if inner is None or value is None:
            continue
        if inner in ("operator", "external"):
            yield inner, value
        else:
            yield from _walk(inner, value, depth + 1)


def _entry(message: memoryview) -> tuple[str, str]:
    """Key and value of an entry of external data."""
    fields = {number: bytes(value) for number, value in _fields(message) if value is not None}
    return tuple(fields.get(number, b"").decode("utf-8", "replace") for number in (1, 2))  # type: ignore[return-value]


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """(number, bytes) of each field; None for a number."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind, size = key & 7, 0
        if kind == 0:
            _, position = _varint(message, position)
        elif kind == 2:
            size, position = _varint(message, position)
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            raise ValueError(f"it has a field of kind {kind}")
        if position + size > len(message):
            raise ValueError("it is cut off")
        yield key >> 3, message[position : position + size] if kind == 2 else None
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
