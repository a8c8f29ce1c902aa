"""Opens image files without trusting them, and views of files with parts left out or added."""

from __future__ import annotations

import io
import os
import stat
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from altogether_rt.data.images.limits import ImageLimits
from altogether_rt.errors import ImageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["Part", "check_bytes", "open_file", "reason_of", "spliced"]

#: Bytes, or (start, end) of a range of the original file.
Part = bytes | tuple[int, int]

_BUFFER_BYTES: Final = 64 * 1024


@contextmanager
def open_file(
    image_file: str | Path | bytes, name: str, limits: ImageLimits
) -> Iterator[tuple[BinaryIO, int]]:
    """The file, open for reading, and its bytes, if it is regular and of a sensible size.

    Raises ImageError otherwise.
    """
    if isinstance(image_file, bytes):
        _check_size(len(image_file), name, limits)
        yield io.BytesIO(image_file), len(image_file)
        return
    with _open_regular(image_file, name, limits) as file:
        yield file, os.fstat(file.fileno()).st_size


@contextmanager
def _open_regular(path: str | Path, name: str, limits: ImageLimits) -> Iterator[BinaryIO]:
    try:
        # Before opening: opening a device can have effects.
        _check_file(os.stat(path), name, limits)
        # O_NONBLOCK: if the file was replaced by a FIFO meanwhile, opening must not block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ImageError("not_a_file", f"{name} does not exist, or is a broken link.") from error
    except (OSError, ValueError) as error:
        raise ImageError("unreadable", f"{name} cannot be opened: {reason_of(error)}.") from error
    with os.fdopen(descriptor, "rb") as file:
        _check_file(os.fstat(descriptor), name, limits)
        yield file


def _check_file(status: os.stat_result, name: str, limits: ImageLimits) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("not_a_file", f"{name} is not a regular file.")
    _check_size(status.st_size, name, limits)


def _check_size(num_bytes: int, name: str, limits: ImageLimits) -> None:
    if num_bytes == 0:
        raise ImageError("empty", f"{name} is empty.")
    check_bytes(num_bytes, limits.max_bytes, name)


def check_bytes(size: int, limit: int, name: str) -> None:
    """Raise ImageError if a file of `size` bytes exceeds the limit."""
    if size > limit:
        raise ImageError("too_large", f"{name} has {size:,} bytes; the limit is {limit:,}.")


def reason_of(error: Exception) -> str:
    """A decoder's own message, cleaned to fit into a sentence."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(words).split())[:160].rstrip(".")


def spliced(file: BinaryIO, parts: Sequence[Part]) -> BinaryIO:
    """A file that consists of `parts`, read from `file` as they are needed.

    Nothing is copied: a decoder sees a file without its metadata, whatever their size.
    """
    return io.BufferedReader(_Spliced(file, parts), _BUFFER_BYTES)


class _Spliced(io.RawIOBase):
    def __init__(self, file: BinaryIO, parts: Sequence[Part]) -> None:
        self._file = file
        self._parts = [part for part in parts if _length(part) > 0]
        self._ends = list(accumulate(_length(part) for part in self._parts))
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        end = self._ends[-1] if self._ends else 0
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: end}[whence]
        if base + offset < 0:
            raise ValueError("negative offset")
        self._offset = base + offset
        return self._offset

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        index = bisect_right(self._ends, self._offset)
        if index == len(self._parts):
            return 0
        part = self._parts[index]
        within = self._offset - (self._ends[index] - _length(part))
        count = min(len(view), self._ends[index] - self._offset)
        if isinstance(part, bytes):
            data = part[within : within + count]
        else:
            self._file.seek(part[0] + within)
            data = self._file.read(count)
        view[: len(data)] = data
        self._offset += len(data)
        return len(data)


def _length(part: Part) -> int:
    return len(part) if isinstance(part, bytes) else max(0, part[1] - part[0])
