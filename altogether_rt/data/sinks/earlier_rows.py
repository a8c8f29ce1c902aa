"""What earlier runs left of an output: its rows, those of its journal, and lines that are no rows.

Lines that are not rows may be anything, so they are never dropped: they go to OUT.set-aside.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from altogether_rt.artifacts.files import open_to_append
from altogether_rt.data.problems import Problems
from altogether_rt.data.rows import MAX_ROW_BYTES, Row, read_rows
from altogether_rt.data.sinks.journal import Journal
from altogether_rt.errors import AltogetherError

__all__ = ["EarlierRows", "identity"]

_BUFFER_BYTES: Final = 1 << 20

#: Lines at the start of a file without a row among them after which it is something else.
_MAX_BAD_FIRST: Final = 100


class EarlierRows:
    """Reads OUT and its journal, and remembers the lines to set aside."""

    def __init__(self, path: Path, journal: Journal) -> None:
        self.path = path
        self._journal = journal
        self.problems = Problems()  # what is to be set aside
        #: (offset, bytes) of lines.
        self._in_output: list[tuple[int, int]] = []
        self._in_journal: list[tuple[int, int]] = []

    def output_rows(self) -> Iterator[tuple[int, Row]]:
        """(offset, row) of OUT; raises AltogetherError if it is mostly something else."""
        if identity(self.path) is None:
            return
        num_rows = num_bad = first_bad = 0
        with self.path.open("rb") as file:
            for number, (offset, row, num_bytes) in enumerate(read_rows(file), 1):
                if row is not None:
                    num_rows += 1
                    yield offset, row
                    continue
                num_bad += 1
                first_bad = first_bad or number
                self.put_aside(f"line {number} of {self.path.name}", in_output=(offset, num_bytes))
                if num_bad > max(num_rows, _MAX_BAD_FIRST):
                    break
        if num_bad > num_rows:
            raise AltogetherError(
                f"line {first_bad} of {self.path} is not a row of captions, and the file is not "
                "replaced: choose another --out, or remove it."
            )

    def journal_rows(self) -> Iterator[tuple[int, Row]]:
        """(offset, row) of the journal, which is mended at its end."""
        num_rows = end = num_bytes = 0
        row: Row | None = None
        line = b""
        bad: list[tuple[int, int, int]] = []
        with self._journal.open() as file:
            for number, (offset, row, num_bytes) in enumerate(read_rows(file), 1):
                end = offset + num_bytes
                if row is None:
                    bad.append((number, offset, num_bytes))
                else:
                    num_rows += 1
                    yield offset, row
            if end:
                file.seek(end - num_bytes)
                line = file.read(MAX_ROW_BYTES)
        if bad and not num_rows and not _begins_like_a_row(line, bad):
            raise self._journal.not_ours("holds no row of captions")
        if row is None and not line.endswith(b"\n"):
            bad = bad[:-1]  # half-written, so nothing after it was finished
            end -= num_bytes
        for number, offset, length in bad:
            self.put_aside(
                f"line {number} of {self._journal.path.name}", in_journal=(offset, length)
            )
        self._journal.cut(end)
        if row is not None and not line.endswith(b"\n"):
            self._journal.append(b"\n")

    def put_aside(
        self,
        what: str,
        *,
        in_output: tuple[int, int] | None = None,
        in_journal: tuple[int, int] | None = None,
    ) -> None:
        """Remember a line, as (offset, bytes), for `set_aside`; `what` is told to the user."""
        self.problems.add(what)
        if in_output is not None:
            self._in_output.append(in_output)
        if in_journal is not None:
            self._in_journal.append(in_journal)

    def set_aside(self) -> None:
        """Append the lines to OUT.set-aside and wait until they are on the disk.

        Raises AltogetherError if something other than a regular file is there.
        """
        descriptor = open_to_append(f"{self.path}.set-aside")
        with os.fdopen(descriptor, "ab") as aside:
            if self._in_output:
                with self.path.open("rb") as file:
                    _copy(file, self._in_output, aside)
            if self._in_journal:
                with self._journal.open() as file:
                    _copy(file, self._in_journal, aside)
            aside.flush()
            os.fsync(aside.fileno())


def _copy(source: BinaryIO, lines: list[tuple[int, int]], target: BinaryIO) -> None:
    for offset, num_bytes in lines:
        source.seek(offset)
        last = b""
        left = num_bytes
        while left > 0 and (data := source.read(min(left, _BUFFER_BYTES))):
            target.write(data)
            left -= len(data)
            last = data
        if not last.endswith(b"\n"):
            target.write(b"\n")


def identity(path: Path) -> tuple[int, int, int, int] | None:
    """What changes when a file is replaced or written to; None if there is none.

    Raises AltogetherError for anything but a regular file.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise AltogetherError(f"{path} is not a regular file and is not replaced: name another.")
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _begins_like_a_row(line: bytes, bad: list[tuple[int, int, int]]) -> bool:
    """Whether the only line of a journal is what a process that died left of its first row."""
    half = len(bad) == 1 and not line.endswith(b"\n")
    return half and (line[:12] == b'{"file_name"'[: len(line)] or not line.strip(b"\0"))
