"""Rows to a pipe, to a terminal or to standard output: in order, and never to be continued."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, TextIO

from altogether_rt.data.problems import Problems
from altogether_rt.data.rows import Row, encode_row
from altogether_rt.data.sinks.jsonl import CheckRow, JsonlSink
from altogether_rt.data.sources.scan import order_key
from altogether_rt.errors import AltogetherError

__all__ = ["StreamSink", "is_standard_output", "is_stream", "open_rows"]

#: Seconds that a FIFO may be without a reader, and between two looks.
OPEN_S: Final = 10.0
_POLL_S: Final = 0.05

_DESCRIPTOR: Final = re.compile(r"/(?:proc/(?:self|thread-self|\d+)|dev)/fd/(\d+)")
_STANDARD: Final = {"/dev/stdout": 1, "/dev/stderr": 2}

_MAX_LINKS: Final = 40


def is_standard_output(path: Path) -> bool:
    """Whether rows for `path` go where the program prints: `-`, `/dev/stdout`, a link to it."""
    return str(path) == "-" or _descriptor(path) == 1


def is_stream(path: Path) -> bool:
    """Whether rows for `path` are written one after another and never read again.

    So they are to `-`, to a descriptor such as `/dev/stdout`, to a FIFO and to a terminal.
    """
    if str(path) == "-" or _descriptor(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def open_rows(path: Path, order_key: Callable[[str], Any] = order_key) -> JsonlSink | StreamSink:
    """What rows for `path` are written with; a link to a file is followed.

    Raises AltogetherError for a link to nothing, and for anything that is neither a file nor a
    stream.
    """
    if is_stream(path):
        return StreamSink(path)
    if not path.is_symlink():
        return JsonlSink(path, order_key)
    target = Path(os.path.realpath(path))
    if not target.exists():
        raise AltogetherError(
            f"{path} is a link to {target}, which does not exist: create it, or name the file."
        )
    return JsonlSink(target, order_key)


class StreamSink:
    """Writes each row at once; has the methods of `JsonlSink`, and no row is there already."""

    def __init__(self, path: Path) -> None:
        """Raises AltogetherError if nobody reads it, or it cannot be written to."""
        self.path = path
        self.error_names: set[str] = set()
        self.problems = Problems()
        self._closes = str(path) != "-"
        self._file = _open(path) if self._closes else _standard_output()

    def recover(
        self,
        check: CheckRow,
        *,
        overwrite: bool = False,
        retry_errors: bool = False,
        is_stale: Callable[[Row], bool] = lambda row: False,
    ) -> set[str]:
        """No names: a stream holds no rows of earlier runs."""
        return set()

    def former_caption(self, name: str) -> str | None:
        """None: there are no rows to overwrite."""
        return None

    def former_rows(self) -> Iterator[Row]:
        """No rows."""
        return iter(())

    def rows(self) -> Iterator[Row]:
        """No rows."""
        return iter(())

    def write(self, row: Row) -> None:
        """Write one row. Raises BrokenPipeError if the reader is gone."""
        self._file.write(encode_row(row))
        self._file.flush()

    def check(self) -> None:
        """A stream that is gone is noticed when it is written to."""

    def finish(self) -> None:
        """Every row is written already."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._closes:
            with suppress(BrokenPipeError):
                self._file.close()


def _descriptor(path: Path) -> int | None:
    """The descriptor that a path stands for, through any links: 1 for `/dev/stdout`."""
    current = os.path.abspath(path)
    for _ in range(_MAX_LINKS):
        if current in _STANDARD:
            return _STANDARD[current]
        if match := _DESCRIPTOR.fullmatch(current):
            return int(match[1])
        try:
            target = os.readlink(current)
        except OSError:
            return None
        current = os.path.abspath(os.path.join(os.path.dirname(current), target))
    return None


def _open(path: Path) -> BinaryIO:
    descriptor = _descriptor(path)
    try:
        if descriptor is not None:
            return os.fdopen(os.dup(descriptor), "wb")
        return _open_path(path)
    except OSError as error:
        raise AltogetherError(
            f"{path} cannot be written to: {error.strerror}: choose another --out."
        ) from error


def _open_path(path: Path) -> BinaryIO:
    """Opened for writing, once a FIFO has a reader."""
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    deadline = time.monotonic() + OPEN_S
    while True:
        try:
            descriptor = os.open(path, flags)
            break
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "wb")


def _standard_output() -> BinaryIO:
    stdout: TextIO | None = sys.stdout  # None where the program was started with it closed
    if stdout is None:
        raise AltogetherError("standard output is closed: choose another --out.")
    stdout.flush()
    return stdout.buffer
