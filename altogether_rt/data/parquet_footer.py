"""Sizes of a Parquet file's column chunks, read from its footer without a library.

pyarrow 26 ends the process where some fields of a column chunk's description contradict each other,
so those that say how much a chunk unpacks to are read here first. The footer is one structure in
Thrift's compact protocol: each field is a byte with its type and the distance of its number from
the last one's, then its value; numbers are zigzag varints (parquet.thrift,
thrift-compact-protocol.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

__all__ = ["ColumnChunk", "column_chunks"]

_MAGIC: Final = b"PAR1"
_MAX_FOOTER_BYTES: Final = 64 << 20
_MAX_DEPTH: Final = 32
_STRUCT, _BINARY, _LIST, _MAP = 12, 8, 9, 11
_NUMBERS: Final = frozenset({4, 5, 6})  # i16, i32, i64

#: Numbers of the fields that lead to a chunk, and of those that are wanted in it.
_ROW_GROUPS, _COLUMNS, _META_DATA = 4, 1, 3
_PATH, _NUM_VALUES, _UNPACKED_BYTES = 3, 5, 6


@dataclass(frozen=True)
class ColumnChunk:
    """One column of one row group."""

    path: tuple[str, ...]  # ("alt", "list", "element")
    num_values: int
    num_bytes: int  # unpacked


def column_chunks(file: BinaryIO) -> Iterator[ColumnChunk]:
    """The column chunks of an open Parquet file, whose position is kept.

    Raises ValueError if the footer is damaged, OSError as `read`.
    """
    position = file.tell()
    try:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        end = file.read(8)
        length = int.from_bytes(end[:4], "little")
        if len(end) < 8 or end[4:] != _MAGIC or length > min(size - 8, _MAX_FOOTER_BYTES):
            raise ValueError("its footer is damaged")
        file.seek(size - 8 - length)
        footer = _Reader(file.read(length))
    finally:
        file.seek(position)
    try:
        for field, kind in footer.fields():
            if (field, kind) == (_ROW_GROUPS, _LIST):
                for _ in footer.structs():
                    yield from _row_group(footer)
            else:
                footer.skip(kind)
    except IndexError as error:
        raise ValueError("its footer is cut off") from error


def _row_group(reader: _Reader) -> Iterator[ColumnChunk]:
    for field, kind in reader.fields():
        if (field, kind) != (_COLUMNS, _LIST):
            reader.skip(kind)
            continue
        for _ in reader.structs():
            for inner, inner_kind in reader.fields():
                if (inner, inner_kind) == (_META_DATA, _STRUCT):
                    yield _chunk(reader)
                else:
                    reader.skip(inner_kind)


def _chunk(reader: _Reader) -> ColumnChunk:
    path: tuple[str, ...] = ()
    sizes = {_NUM_VALUES: -1, _UNPACKED_BYTES: -1}
    for field, kind in reader.fields():
        if (field, kind) == (_PATH, _LIST):
            path = tuple(reader.texts())
        elif field in sizes and kind in _NUMBERS:
            sizes[field] = reader.number()
        else:
            reader.skip(kind)
    return ColumnChunk(path, sizes[_NUM_VALUES], sizes[_UNPACKED_BYTES])


class _Reader:
    """Reads values one after another. Raises IndexError past the end, ValueError for nonsense."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def fields(self) -> Iterator[tuple[int, int]]:
        """Number and type of each field of a structure; the caller reads or skips its value."""
        number = 0
        while (head := self._byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self.number()
            yield number, head & 15

    def structs(self) -> Iterator[None]:
        """For each structure of a list; the caller reads its fields."""
        kind, count = self._list()
        if count and kind != _STRUCT:
            raise ValueError("its footer has a list of another kind")
        yield from (None for _ in range(count))

    def texts(self) -> list[str]:
        """A list of texts."""
        kind, count = self._list()
        if count and kind != _BINARY:
            raise ValueError("its footer has a list of another kind")
        return [self._bytes().decode("utf-8", "replace") for _ in range(count)]

    def number(self) -> int:
        """A zigzag number."""
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def skip(self, kind: int, depth: int = 0, *, in_list: bool = False) -> None:
        """Pass over a value of a type."""
        if depth > _MAX_DEPTH:
            raise ValueError("its footer is nested too deeply")
        if kind in (1, 2):  # a field's type is its truth; in a list it takes a byte
            self._advance(1 if in_list else 0)
        elif kind == 3:
            self._advance(1)
        elif kind in _NUMBERS:
            self._varint()
        elif kind == 7:
            self._advance(8)
        elif kind == _BINARY:
            self._bytes()
        elif kind in (_LIST, 10):
            inner, count = self._list()
            for _ in range(count):
                self.skip(inner, depth + 1, in_list=True)
        elif kind == _MAP:
            count = self._varint()
            kinds = self._byte() if count else 0
            for _ in range(self._within(count)):
                self.skip(kinds >> 4, depth + 1, in_list=True)
                self.skip(kinds & 15, depth + 1, in_list=True)
        elif kind == _STRUCT:
            for _, inner in self.fields():
                self.skip(inner, depth + 1)
        else:
            raise ValueError(f"its footer has a value of type {kind}")

    def _list(self) -> tuple[int, int]:
        head = self._byte()
        count = head >> 4
        return head & 15, self._within(self._varint() if count == 15 else count)

    def _within(self, count: int) -> int:
        """A count of values, each of which takes a byte at least."""
        if count > len(self._data) - self._position:
            raise ValueError("its footer is cut off")
        return count

    def _bytes(self) -> bytes:
        size = self._within(self._varint())
        self._position += size
        return self._data[self._position - size : self._position]

    def _advance(self, count: int) -> None:
        self._position += self._within(count)

    def _byte(self) -> int:
        byte = self._data[self._position]
        self._position += 1
        return byte

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("its footer has a number that is too long")
