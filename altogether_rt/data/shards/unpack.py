"""Unpacks `.tar.gz` and `.tar.zst`, as far as they can be read."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

from altogether_rt.data.shards.base import Ending
from altogether_rt.errors import AltogetherError, MissingDependencyError

__all__ = ["compression_of", "unpack"]

#: Compressed bytes given to a decompressor at once. Zstandard makes up to 32,768 bytes of one.
_CHUNK_BYTES: Final = 2048
_MAGIC: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "Zstandard"}
_UNREAD: Final = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"PK\x03\x04": "zip", b"Rar!": "rar"}
_WINDOW_BITS: Final = 31  # zlib: a gzip header and the largest window


def compression_of(head: bytes, name: str) -> str | None:
    """The compression of a file that begins with `head`; None: none.

    Raises AltogetherError for one that is not read here.
    """
    for magic, kind in _UNREAD.items():
        if head.startswith(magic):
            raise AltogetherError(f"{name} is compressed with {kind}: unpack it, or use gz or zst.")
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def unpack(path: Path, target: BinaryIO, max_bytes: int, name: str) -> Ending | None:
    """Write what `path` unpacks to into `target`; an Ending if the compressed data are not whole.

    What could be unpacked before damage is in `target`. Raises OSError, AltogetherError if it is
    more than `max_bytes`, MissingDependencyError without the package `zstandard`.
    """
    with path.open("rb") as file:
        kind = compression_of(file.read(8), name)
        file.seek(0)
        new, errors = (_zlib, zlib.error) if kind == "gzip" else _zstandard(name)
        return _Unpacking(file, target, max_bytes, name).run(new, errors, str(kind))


class _Unpacking:
    def __init__(self, file: BinaryIO, target: BinaryIO, max_bytes: int, name: str) -> None:
        self._file = file
        self._target = target
        self._room = max_bytes
        self._max_bytes = max_bytes
        self._name = name

    def run(self, new: Callable[[], Any], errors: type[Exception], kind: str) -> Ending | None:
        stream = new()
        at = 0  # compressed bytes read so far
        begun = False  # whether the stream has been given any
        while chunk := self._file.read(_CHUNK_BYTES):
            at += len(chunk)
            while chunk:
                begun = True
                before = stream.copy() if hasattr(stream, "copy") else None
                try:
                    self._write(stream.decompress(chunk))
                except errors:
                    start = at - len(chunk)
                    self._write_until_error(before, chunk, errors)
                    return _damaged(start, kind)
                chunk = stream.unused_data if stream.eof else b""
                if stream.eof:
                    stream, begun = new(), False
                    if not chunk.strip(b"\0"):
                        chunk = self._after_zeros()
                        at = self._file.tell()
                    if chunk and compression_of(chunk + self._peek(8), self._name) is None:
                        return _damaged(at - len(chunk), kind)
        if begun:
            message = f"its {kind} data are cut off at byte {at:,}"
            return Ending("truncated", at, message)
        return None

    def _after_zeros(self) -> bytes:
        """The next bytes behind zeros, which pad files on tapes."""
        while chunk := self._file.read(_CHUNK_BYTES):
            if rest := chunk.lstrip(b"\0"):
                return rest
        return b""

    def _peek(self, size: int) -> bytes:
        at = self._file.tell()
        head = self._file.read(size)
        self._file.seek(at)
        return head

    def _write_until_error(self, stream: Any, chunk: bytes, errors: type[Exception]) -> None:
        """What can be had of a chunk with damage, byte by byte; zlib drops all that came of it."""
        if stream is None:
            return
        try:
            for index in range(len(chunk)):
                self._write(stream.decompress(chunk[index : index + 1]))
        except errors:
            pass

    def _write(self, data: bytes) -> None:
        self._room -= len(data)
        if self._room < 0:
            raise AltogetherError(
                f"{self._name} unpacks to more than {self._max_bytes:,} bytes, for which the spool "
                "has no room: unpack it yourself, or allow more with --spool-bytes."
            )
        self._target.write(data)


def _damaged(at: int, kind: str) -> Ending:
    message = f"its {kind} data are damaged at byte {at:,}, and what comes before was read"
    return Ending("damaged", at, message)


def _zlib() -> Any:
    return zlib.decompressobj(_WINDOW_BITS)


def _zstandard(name: str) -> tuple[Callable[[], Any], type[Exception]]:
    try:
        import zstandard
    except ImportError as error:
        purpose = f"reading {name} (or unpack it first)"
        raise MissingDependencyError("zstandard", "zstd", purpose) from error
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    return decompressor.decompressobj, zstandard.ZstdError
