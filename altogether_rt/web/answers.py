"""Append-only answer files, one per annotator, one row per answer.

Each row is one write and one fsync: an answer that was confirmed survives a crash of the process or
the machine. The last row of a key is the current one.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from altogether_rt.artifacts.files import open_to_append
from altogether_rt.data.rows import encode_row
from altogether_rt.errors import AltogetherError

__all__ = ["AnswerFile", "answer_files", "check_annotator", "latest_rows", "read_answers"]

Row = Mapping[str, Any]

#: Lower case only, because names become file names and some file systems ignore case.
_ANNOTATOR: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


def check_annotator(name: str) -> str:
    """Return the name. Raises AltogetherError if it is not a safe file name."""
    if not _ANNOTATOR.fullmatch(name):
        raise AltogetherError(
            f"{name!r} cannot be an annotator's name: "
            "use 1 to 32 of a-z, 0-9, '-' and '_', beginning with a letter or digit."
        )
    return name


def answer_files(folder: Path) -> dict[str, Path]:
    """Answer files in a folder by annotator, in order of names."""
    found = {path.stem: path for path in sorted(folder.glob("*.jsonl"))}
    return {name: path for name, path in found.items() if _ANNOTATOR.fullmatch(name)}


def read_answers(path: Path) -> list[Row]:
    """The rows of an answer file, in the order in which they were written.

    A last line without a line end was never confirmed and is ignored. Raises AltogetherError if any
    other line is not a JSON object: answers are never dropped silently.
    """
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        raise AltogetherError(f"{path} cannot be read: {error.strerror}.") from error
    rows: list[Row] = []
    for number, line in enumerate(lines[:-1], 1):
        row = _parse(line)
        if row is None:
            raise AltogetherError(
                f"line {number} of {path} is not a JSON object: restore the file from a copy, "
                "or remove that line."
            )
        rows.append(row)
    return rows


def latest_rows(rows: list[Row], key: Callable[[Row], str]) -> dict[str, Row]:
    """The last row of every key, in order of the keys' first rows."""
    return {key(row): row for row in rows}


def _parse(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


class AnswerFile:
    """An answer file, locked by this process. A context manager; thread-safe."""

    def __init__(self, path: Path) -> None:
        """Lock the file and repair its end. Raises AltogetherError if another process holds it."""
        self.path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        self._file = open_to_append(path)
        try:
            self._take_lock()
            self._mend()
            if is_new:
                _sync_folder(path.parent)
            self.rows = read_answers(path)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, row: Row) -> None:
        """Write one row; it is on disk when this returns.

        Raises OSError if it cannot be written; then the file is unchanged.
        """
        line = encode_row(row)
        with self._lock:
            size = os.fstat(self._file).st_size
            try:
                left = memoryview(line)
                while left:
                    left = left[os.write(self._file, left) :]
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, size)
                raise
            self.rows.append(row)

    def close(self) -> None:
        """Wait for a write in progress and release the lock."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AltogetherError(
                f"another process is writing {self.path}: end it, or choose another name."
            ) from error
        except OSError:
            return  # a file system without locks: go on without one

    def _mend(self) -> None:
        """Remove a half-written last row; add a missing line end to a whole one."""
        data = self.path.read_bytes()
        end = data.rfind(b"\n") + 1
        if end == len(data):
            return
        if _parse(data[end:]) is None:
            os.ftruncate(self._file, end)  # half-written, never confirmed
        else:
            os.write(self._file, b"\n")


def _sync_folder(folder: Path) -> None:
    """Flush a folder, so that the name of a new file is on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
