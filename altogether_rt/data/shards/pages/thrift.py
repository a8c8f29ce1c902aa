"""Structs in Thrift's compact protocol, which the headers of Parquet's pages are in."""

from __future__ import annotations

import io
from typing import Any, Final

__all__ = ["parse_struct"]

_MAX_DEPTH: Final = 8
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS: Final = (4, 5, 6)  # of 16, 32 and 64 bits


def parse_struct(raw: bytes) -> tuple[dict[int, Any], int]:
    """The fields of a struct by their numbers, and its length in bytes. Raises ValueError."""
    file = io.BytesIO(raw)
    return _struct(file, 0), file.tell()


def _struct(file: io.BytesIO, depth: int) -> dict[int, Any]:
    if depth > _MAX_DEPTH:
        raise ValueError("a page's header is nested too deeply")
    fields: dict[int, Any] = {}
    number = 0
    while head := _take(file, 1)[0]:
        delta, kind = head >> 4, head & 15
        number = number + delta if delta else _signed(file)
        fields[number] = _value(file, kind, depth)
    return fields


def _value(file: io.BytesIO, kind: int, depth: int) -> Any:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE
    if kind == _BYTE:
        return _take(file, 1)[0]
    if kind in _INTEGERS:
        return _signed(file)
    if kind == _DOUBLE:
        return _take(file, 8)
    if kind == _BINARY:
        return _take(file, _unsigned(file))
    if kind in (_LIST, _SET):
        head = _take(file, 1)[0]
        count = head >> 4
        count = _unsigned(file) if count == 15 else count
        if depth > _MAX_DEPTH:
            raise ValueError("a page's header is nested too deeply")
        return [_value(file, head & 15, depth + 1) for _ in range(count)]
    if kind == _STRUCT:
        return _struct(file, depth + 1)
    raise ValueError("a page has no header")


def _unsigned(file: io.BytesIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = _take(file, 1)[0]
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError("a page has no header")


def _signed(file: io.BytesIO) -> int:
    value = _unsigned(file)
    return value >> 1 ^ -(value & 1)


def _take(file: io.BytesIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ValueError("a page's header is cut off")
    return data
