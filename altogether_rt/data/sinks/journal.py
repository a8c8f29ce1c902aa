"""The journal of an unfinished output file: OUT.part, one line per row, locked by its writer.

Each line is written by one call, so a process that dies leaves whole lines and at most one
half-written line at the end, which the next run cuts off.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from altogether_rt.artifacts.files import naming_full_disk
from altogether_rt.data.sinks.lock_file import LockFile
from altogether_rt.errors import AltogetherError

__all__ = ["Journal"]

Row = TypeVar("Row")

_NOT_REGULAR: Final = "is a link or not a regular file"

#: Seconds between two looks whether the journal is still there, while lines are written.
_CHECK_S: Final = 1.0


class Journal:
    """Lines appended to OUT.part; `close` gives the lock back."""

    def __init__(self, output: Path) -> None:
        """Create or open the journal of `output` and lock it.

        Raises AltogetherError if another run holds the lock, or if OUT.part is not a regular file
        with this one name: a link there could lead to any other file of the user.
        """
        self.path = Path(f"{output}.part")
        self.size = 0  # bytes of whole lines, once they were read or written
        self._output = output
        self._lock_file: LockFile | None = None  # where the file system has no locks
        self._checked_at = time.monotonic()
        output.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = self._open_locked()

    def cut(self, size: int) -> None:
        """Remove all lines from byte `size` on."""
        os.ftruncate(self._descriptor, size)
        self.size = size

    def recover(self, parse: Callable[[bytes], Row | None]) -> Iterator[tuple[int, Row, int]]:
        """(offset, row, bytes) of the lines that an earlier run left.

        parse: a line's row, or None if it is not a whole row; the journal is cut there.
        """
        self.size = 0
        for offset, row, num_bytes in self.rows(parse):
            self.size = offset + num_bytes
            yield offset, row, num_bytes
        self.cut(self.size)  # what follows was half-written, so nothing after it was finished

    def rows(self, parse: Callable[[bytes], Row | None]) -> Iterator[tuple[int, Row, int]]:
        """(offset, row, bytes) of the lines there are, up to the first that `parse` refuses."""
        offset = 0
        with self.open() as file:
            for line in file:
                row = parse(line)
                if row is None:
                    return
                yield offset, row, len(line)
                offset += len(line)

    def append(self, line: bytes) -> int:
        """Write a line with its end and return its offset; it then survives the process.

        Raises AltogetherError, once a second at most, if the journal was removed or replaced.
        """
        now = time.monotonic()
        if now - self._checked_at > _CHECK_S:
            self._checked_at = now
            self.check()
        left = memoryview(line)
        with naming_full_disk(self.path):
            while left:
                left = left[os.write(self._descriptor, left) :]
        self.size += len(line)
        return self.size - len(line)

    def open(self) -> BinaryIO:
        """The journal, opened for reading. Raises AltogetherError if it was replaced."""
        try:
            file = os.fdopen(os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
        except OSError as error:
            raise self._replaced() from error
        if not os.path.samestat(os.fstat(file.fileno()), os.fstat(self._descriptor)):
            file.close()
            raise self._replaced()
        return file

    def check(self) -> None:
        """Raise AltogetherError if the journal is not where it was created."""
        if not self._is_at(self._descriptor):
            raise self._replaced()

    def become_output(self) -> None:
        """Rename the journal to OUT. Raises AltogetherError if it was removed or replaced."""
        os.fsync(self._descriptor)
        self.check()
        os.replace(self.path, self._output)

    def remove(self) -> None:
        """Remove the journal if it is still this run's."""
        if self._is_at(self._descriptor):
            os.unlink(self.path)

    @property
    def is_empty(self) -> bool:
        return os.fstat(self._descriptor).st_size == 0

    def close(self) -> None:
        """Give the lock back; an empty journal is removed. Calling it again does nothing."""
        if self._descriptor < 0:
            return
        if self.is_empty:
            self.remove()
        os.close(self._descriptor)
        self._descriptor = -1
        if self._lock_file is not None:
            self._lock_file.release()

    def _open_locked(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        while True:
            try:
                if not stat.S_ISREG(os.lstat(self.path).st_mode):  # opening a device has effects
                    raise self.not_ours(_NOT_REGULAR)
            except FileNotFoundError:
                pass
            try:
                descriptor = os.open(self.path, flags, 0o666)  # less the umask
            except OSError as error:
                if self.path.is_symlink() or self.path.is_dir():
                    raise self.not_ours(_NOT_REGULAR) from error
                raise
            try:
                if self._lock(descriptor):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                if self._lock_file is not None:
                    self._lock_file.release()
                raise
            os.close(descriptor)  # the other run finished in between: its journal is now OUT

    def _lock(self, descriptor: int) -> bool:
        """Whether the journal is locked and still the file at its path."""
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise self.not_ours(_NOT_REGULAR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AltogetherError(
                f"another run is writing {self._output}: wait for it, or choose another file."
            ) from error
        except OSError:  # a file system without locks
            if self._lock_file is None:
                self._lock_file = LockFile(self._output)
        return self._is_at(descriptor)

    def _is_at(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self.path))
        except OSError:  # removed, moved with its folder, or on a disk that is gone
            return False

    def not_ours(self, what: str) -> AltogetherError:
        """The error for a file at the journal's path that `what` describes."""
        return AltogetherError(
            f"{self.path} {what}, so no run of altogether-rt left it: remove it, or choose another "
            "file."
        )

    def _replaced(self) -> AltogetherError:
        return AltogetherError(
            f"{self.path} was removed, moved or replaced while this run was writing it: put its "
            "folder back and run it again."
        )
