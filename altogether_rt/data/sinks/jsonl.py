"""Writes rows so that none is lost, doubled or half-written, whenever the process dies.

New rows are appended to a journal beside the output, OUT.part, each by one write and in input
order. When the run is complete the journal becomes OUT by one rename. If OUT already held rows,
both are first merged, in input order, into a new file, which then becomes OUT. So OUT is always
whole: the former one or the new one. A rerun takes every whole row of OUT and of the journal as
done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from altogether_rt.artifacts.files import new_file
from altogether_rt.data.rows import Row, encode_row, parse_row, read_rows
from altogether_rt.data.sinks.journal import Journal
from altogether_rt.data.sources.scan import order_key
from altogether_rt.errors import AltogetherError

__all__ = ["CheckRow", "JsonlSink"]

#: Called with each row that is already there. A text, the reason, refuses the whole file.
CheckRow = Callable[[Row], "str | None"]


class JsonlSink:
    """An output file under construction; a context manager.

    Leaving it without `finish` (an error, Ctrl-C) keeps the journal for the next run.
    """

    def __init__(self, path: str | Path, order_key: Callable[[str], Any] = order_key) -> None:
        """Lock the output. Raises AltogetherError if another run holds the lock.

        order_key: sorts keys as the source yields them; by default as a folder does.
        """
        self.path = Path(path)
        self._order_key = order_key
        if self.path.is_dir():
            raise AltogetherError(f"{self.path} is a folder: --out must name a file.")
        self._journal = Journal(self.path)
        #: Offset of each row of earlier runs, in OUT or, if it is there, in the journal: no name is
        #: in both. Nothing is kept of this run's rows, which may be millions.
        self._in_output: dict[str, int] = {}
        self._in_journal: dict[str, int] = {}
        #: Names whose row carries an error, after `recover`.
        self.error_names: set[str] = set()
        self._last_key: Any = None  # order key of the journal's last row
        self._needs_merge = False  # the journal alone cannot become the output

    def recover(
        self,
        check: CheckRow,
        *,
        overwrite: bool = False,
        retry_errors: bool = False,
        is_stale: Callable[[Row], bool] = lambda row: False,
    ) -> set[str]:
        """The names whose rows are there already. Cuts off a half-written last row.

        overwrite: take no row as done; OUT is left alone until `finish` replaces it. retry_errors:
        do not count rows of OUT that carry an error. is_stale: rows that are to be made again; they
        are not checked, and the new ones replace them. Raises AltogetherError if a file holds
        anything other than rows, or rows that `check` refuses.
        """
        if overwrite:
            self._journal.cut(0)
            return set()
        retried = set()
        if self.path.exists():
            self._needs_merge = True
            for offset, row in self._finished_rows(
                lambda row: None if is_stale(row) else check(row)
            ):
                self._in_output[row["file_name"]] = offset
                self._note_error(row)
                if (retry_errors and "error" in row) or is_stale(row):
                    retried.add(row["file_name"])
        for offset, row, _ in self._journal.recover(parse_row):
            stale = is_stale(row)
            if not stale:
                self._check(row, check, self._journal.path)
            self._place_in_journal(row["file_name"], offset)
            self._note_order(row["file_name"])
            self._note_error(row)
            if stale:
                retried.add(row["file_name"])
            else:
                retried.discard(row["file_name"])
        return (self._in_output.keys() | self._in_journal.keys()) - retried

    def rows(self) -> Iterator[Row]:
        """Every row that is there after `recover`, those of OUT first."""
        if self._needs_merge and self.path.exists():
            for _, row in self._finished_rows(lambda row: None):
                if row["file_name"] not in self._in_journal:
                    yield row
        for _, row, _ in self._journal.rows(parse_row):
            yield row

    def write(self, row: Row) -> None:
        """Append one row; after this call it survives the death of the process."""
        self._journal.append(encode_row(row))
        self._note_order(row["file_name"])

    def finish(self) -> None:
        """Make the rows the output."""
        if self._journal.size == 0 and self.path.exists() and self._needs_merge:
            return  # nothing new: the output stays as it is, to the byte
        if self._needs_merge:
            self._merge()
        else:
            self._journal.become_output()

    def close(self) -> None:
        """Give the lock back and remove a journal without rows."""
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _finished_rows(self, check: CheckRow) -> Iterator[tuple[int, Row]]:
        """(offset, row) of OUT, which must hold nothing but rows."""
        with self.path.open("rb") as file:
            for number, (offset, row, _) in enumerate(read_rows(file), 1):
                if row is None:
                    raise AltogetherError(
                        f"line {number} of {self.path} is not a row of captions: "
                        "choose another --out, or replace the file with --overwrite."
                    )
                self._check(row, check, self.path)
                yield offset, row

    def _check(self, row: Row, check: CheckRow, path: Path) -> None:
        reason = check(row)
        if reason is not None:
            raise AltogetherError(
                f"{path} holds captions {reason}: "
                "choose another --out, or start afresh with --overwrite."
            )

    def _place_in_journal(self, name: str, offset: int) -> None:
        self._in_output.pop(name, None)
        self._in_journal[name] = offset

    def _note_error(self, row: Row) -> None:
        if "error" in row:
            self.error_names.add(row["file_name"])
        else:
            self.error_names.discard(row["file_name"])

    def _note_order(self, name: str) -> None:
        """A journal that is not in input order cannot become the output as it is."""
        key = self._order_key(name)
        if self._last_key is not None:
            self._needs_merge |= key <= self._last_key  # a file came into the folder between runs
        self._last_key = key

    def _merge(self) -> None:
        """Make OUT and the journal, in input order, the new OUT."""
        for offset, row, _ in self._journal.rows(parse_row):
            self._place_in_journal(row["file_name"], offset)
        former_path = self.path if self.path.exists() else Path(os.devnull)
        with (
            former_path.open("rb") as former,
            self._journal.open() as journal,
            new_file(self.path) as merged,
        ):
            for name in sorted((*self._in_output, *self._in_journal), key=self._order_key):
                file, offsets = (
                    (journal, self._in_journal)
                    if name in self._in_journal
                    else (former, self._in_output)
                )
                file.seek(offsets[name])
                merged.write(file.readline())
        self._journal.remove()
