"""Unpacks Snappy's raw format without holding what it unpacks to.

https://github.com/google/snappy/blob/main/format_description.txt
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["unpack_snappy"]

#: Compressors look back no further: they work on blocks of this size.
_WINDOW_BYTES: Final = 1 << 16
_FLUSH_BYTES: Final = 1 << 20


def unpack_snappy(chunks: Iterator[bytes], write: Callable[[bytes], None]) -> None:
    """Call `write` with what `chunks` unpack to, a part at a time. Raises ValueError."""
    source = _Bytes(chunks)
    left = _varint(source)
    out = bytearray()
    while left > 0:
        tag = source.take(1)[0]
        kind = tag & 3
        if kind == 0:
            size = tag >> 2
            if size >= 60:
                size = int.from_bytes(source.take(size - 59), "little")
            size += 1
            left -= size
            while size > 0:  # literals may be long
                part = source.take(min(size, _FLUSH_BYTES))
                out += part
                size -= len(part)
                _flush(out, write)
            continue
        if kind == 1:
            size, offset = (tag >> 2 & 7) + 4, (tag >> 5) << 8 | source.take(1)[0]
        else:
            size = (tag >> 2) + 1
            offset = int.from_bytes(source.take(2 if kind == 2 else 4), "little")
        if not 0 < offset <= len(out):
            raise ValueError("a page is damaged: a copy from before its beginning")
        left -= size
        start = len(out) - offset
        if offset >= size:
            out += out[start : start + size]
        else:  # it repeats itself
            out += (bytes(out[start:]) * (size // offset + 1))[:size]
        _flush(out, write)
    if left < 0:
        raise ValueError("a page is larger than it says")
    write(bytes(out))


def _flush(out: bytearray, write: Callable[[bytes], None]) -> None:
    if len(out) >= _FLUSH_BYTES + _WINDOW_BYTES:
        write(bytes(out[:-_WINDOW_BYTES]))
        del out[:-_WINDOW_BYTES]


def _varint(source: _Bytes) -> int:
    value = 0
    for shift in range(0, 35, 7):
        byte = source.take(1)[0]
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError("a page is damaged: no length")


class _Bytes:
    """Bytes of chunks, taken as many at a time as are wanted."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end <= len(self._chunk):
            data = self._chunk[self._at : end]
            self._at = end
            return data
        parts = [self._chunk[self._at :]]
        missing = size - len(parts[0])
        while missing > 0:
            self._chunk = next(self._chunks, b"")
            if not self._chunk:
                raise ValueError("a page is damaged: it ends too early")
            self._at = min(missing, len(self._chunk))
            parts.append(self._chunk[: self._at])
            missing -= self._at
        return b"".join(parts)
