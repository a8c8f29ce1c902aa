"""Writes rows so that nothing is lost, doubled or half-written, whenever the process dies.

New rows are appended to a journal beside the output, OUT.part: one write a row, in input order.
When the run is complete the journal becomes OUT by one rename; if OUT held rows before, both are
first merged, in input order, into OUT.tmp, and that is renamed. So OUT is always whole: the one
of before or the one of after. A rerun takes every whole row of OUT and of the journal as done.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from altogether_rt.data.rows import Row, encode_row, read_rows
from altogether_rt.data.sources.scan import order_key
from altogether_rt.errors import AltogetherError

__all__ = ["CheckRow", "JsonlSink"]

#: Given each row that is already there; a reason, if there is one, refuses the whole file.
CheckRow = Callable[[Row], "str | None"]


class JsonlSink:
    """An output file under construction; a context manager.

    Leaving it without `finish` (an error, Ctrl-C) keeps the journal for the next run.
    """

    def __init__(self, path: str | Path, order_key: Callable[[str], Any] = order_key) -> None:
        """Takes the output's lock. Raises AltogetherError if another run holds it.

        order_key: sorts keys as the source yields them; by default as a folder does.
        """
        self.path = Path(path)
        self._order_key = order_key
        self._part_path = Path(f"{self.path}.part")
        if self.path.is_dir():
            raise AltogetherError(f"{self.path} is a folder: --out must name a file.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._part = self._open_locked()
        #: Where each row of earlier runs stands: its offset in OUT, or ~offset in the journal. Of
        #: this run's rows, which may be millions, nothing is kept.
        self._places: dict[str, int] = {}
        self._part_size = 0  # bytes of whole rows in the journal
        self._part_last: Any = None  # order key of its last row
        self._needs_merge = False  # the journal, as it is, would not do as the output

    def recover(
        self, check: CheckRow, *, overwrite: bool = False, retry_errors: bool = False
    ) -> set[str]:
        """The names whose rows are there already. Cuts a half-written last row.

        overwrite: none are, and OUT is left alone until `finish` replaces it. retry_errors: rows
        of OUT that carry an error do not count. Raises AltogetherError if a file holds something
        else than rows, or rows that `check` refuses.
        """
        if overwrite:
            os.ftruncate(self._part, 0)
            return set()
        retried = set()
        if self.path.exists():
            self._needs_merge = True
            for offset, row in self._finished_rows(check):
                self._places[row["file_name"]] = offset
                if retry_errors and "error" in row:
                    retried.add(row["file_name"])
        for row, num_bytes in self._journal_rows(check):
            self._places[row["file_name"]] = ~self._part_size
            self._note_journal_row(row["file_name"], num_bytes)
            retried.discard(row["file_name"])
        return self._places.keys() - retried

    def rows(self) -> Iterator[Row]:
        """Every row that is there, after `recover`; those of OUT first."""
        if self._needs_merge and self.path.exists():
            for _, row in self._finished_rows(lambda row: None):
                if self._places[row["file_name"]] >= 0:
                    yield row
        for row, _ in self._journal_rows(lambda row: None):
            yield row

    def write(self, row: Row) -> None:
        """Appends one row: after this call it survives the death of the process."""
        line = encode_row(row)
        left = memoryview(line)
        while left:
            left = left[os.write(self._part, left) :]
        self._note_journal_row(row["file_name"], len(line))

    def finish(self) -> None:
        """Makes the rows the output."""
        os.fsync(self._part)
        if self._part_size == 0 and self.path.exists() and self._needs_merge:
            return  # nothing new: the output stays as it is, to the byte
        if self._needs_merge:
            self._merge()
        else:
            os.replace(self._part_path, self.path)

    def close(self) -> None:
        """Gives the lock back; a journal without rows is removed."""
        if self._part < 0:
            return
        if os.fstat(self._part).st_size == 0:
            self._remove_part()
        os.close(self._part)
        self._part = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open_locked(self) -> int:
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            part = os.open(self._part_path, flags, 0o666)  # less the umask
            try:
                fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(part)
                raise AltogetherError(
                    f"another run is writing {self.path}: wait for it, or choose another --out."
                ) from error
            except OSError:
                return part  # a file system without locks: go on without one
            if self._is_part(part):
                return part
            os.close(part)  # the other run finished in between: its journal is now the output

    def _is_part(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._part_path))
        except FileNotFoundError:
            return False

    def _remove_part(self) -> None:
        if self._is_part(self._part):
            os.unlink(self._part_path)

    def _finished_rows(self, check: CheckRow) -> Iterator[tuple[int, Row]]:
        """(offset, row) of OUT, which must hold nothing else."""
        with self.path.open("rb") as file:
            for number, (offset, row, _) in enumerate(read_rows(file), 1):
                if row is None:
                    raise AltogetherError(
                        f"line {number} of {self.path} is not a row of captions: "
                        "choose another --out, or replace the file with --overwrite."
                    )
                self._check(row, check, self.path)
                yield offset, row

    def _journal_rows(self, check: CheckRow) -> Iterator[tuple[Row, int]]:
        """(row, bytes) of the journal, which ends where the last run died."""
        with self._part_path.open("rb") as file:
            for offset, row, num_bytes in read_rows(file):
                if row is None:  # half-written, and nothing after it was finished
                    os.ftruncate(self._part, offset)
                    return
                self._check(row, check, self._part_path)
                yield row, num_bytes

    def _check(self, row: Row, check: CheckRow, path: Path) -> None:
        reason = check(row)
        if reason is not None:
            raise AltogetherError(
                f"{path} holds captions {reason}: "
                "choose another --out, or start afresh with --overwrite."
            )

    def _note_journal_row(self, name: str, num_bytes: int) -> None:
        key = self._order_key(name)
        if self._part_last is not None:
            self._needs_merge |= key <= self._part_last  # a file came into the folder between runs
        self._part_last = key
        self._part_size += num_bytes

    def _merge(self) -> None:
        """OUT and the journal, in input order, become the new OUT."""
        offset = 0
        for row, num_bytes in self._journal_rows(lambda row: None):
            self._places[row["file_name"]] = ~offset
            offset += num_bytes
        merged = Path(f"{self.path}.tmp")
        finished_path = self.path if self.path.exists() else Path(os.devnull)
        with (
            finished_path.open("rb") as finished,
            self._part_path.open("rb") as journal,
            merged.open("wb") as file,
        ):
            for name in sorted(self._places, key=self._order_key):
                place = self._places[name]
                source = finished if place >= 0 else journal
                source.seek(place if place >= 0 else ~place)
                file.write(source.readline())
            file.flush()
            os.fsync(file.fileno())
        os.replace(merged, self.path)
        self._remove_part()
