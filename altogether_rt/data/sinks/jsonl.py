"""Writes rows so that none is lost, doubled or half-written, whenever the process dies.

New rows are appended to a journal beside the output, OUT.part, each by one write and in input
order. When the run is complete the journal becomes OUT by one rename. If OUT already held rows,
both are first merged, in input order, into a new file, which then becomes OUT. So OUT is always
whole: the former one or the new one. A rerun takes every whole row of OUT and of the journal as
done. Lines between them that are not rows, and rows that OUT has twice, go to OUT.set-aside.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from altogether_rt.artifacts.files import new_file
from altogether_rt.data.problems import Problems, counted
from altogether_rt.data.rows import (
    MAX_ROW_BYTES,
    Row,
    encode_row,
    is_edited,
    parse_row,
    read_rows,
)
from altogether_rt.data.sinks.earlier_rows import EarlierRows, identity
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
        """Lock the output. Raises AltogetherError if another run holds the lock, or if the output
        cannot be a file that is replaced.

        order_key: sorts keys as the source yields them; by default as a folder does.
        """
        self.path = Path(path)
        self._order_key = order_key
        if self.path.is_dir():
            raise AltogetherError(f"{self.path} is a folder: --out must name a file.")
        identity(self.path)  # before anything is created
        self._journal = Journal(self.path)
        self._identity = identity(self.path)  # of OUT, whose rows are at offsets that must stay
        #: Offset of each row of earlier runs, in OUT or, if it is there, in the journal: no name is
        #: in both. Nothing is kept of this run's rows, which may be millions.
        self._in_output: dict[str, int] = {}
        self._in_journal: dict[str, int] = {}
        #: Names whose row carries an error, after `recover`.
        self.error_names: set[str] = set()
        self._earlier = EarlierRows(self.path, self._journal)
        self._overwritten: dict[str, int] = {}  # offset of each row of OUT that is not kept
        self._last_key: Any = None  # order key of the journal's last row
        self._needs_merge = False  # the journal alone cannot become the output

    @property
    def problems(self) -> Problems:
        """Lines that are not rows, and rows that OUT has twice: `finish` sets them aside."""
        return self._earlier.problems

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
        no rows but something else, rows that `check` refuses, or edited ones to be overwritten.
        """
        if overwrite:
            self._note_overwritten()
            for _ in self._earlier.journal_rows():
                break
            self._forget()
            return set()
        retried: set[str] = set()
        for offset, row in self._earlier.output_rows():
            self._needs_merge = True
            stale = is_stale(row)
            if not stale:
                self._check(row, check, self.path)
            name = row["file_name"]
            if name in self._in_output and not self._replaces(offset, row):
                continue
            self._in_output[name] = offset
            self._note_error(row)
            (retried.add if stale or (retry_errors and "error" in row) else retried.discard)(name)
        for offset, row in self._earlier.journal_rows():
            stale = is_stale(row)
            if not stale:
                self._check(row, check, self._journal.path)
            self._place_in_journal(row["file_name"], offset)
            self._note_order(row["file_name"])
            self._note_error(row)
            (retried.add if stale else retried.discard)(row["file_name"])
        return (self._in_output.keys() | self._in_journal.keys()) - retried

    def _note_overwritten(self) -> None:
        """Raises AltogetherError for a file of something else, and for captions edited by hand."""
        edited = Problems()
        for offset, row in self._earlier.output_rows():
            self._overwritten[row["file_name"]] = offset
            if is_edited(row):
                edited.add(row["file_name"])
        if edited:
            have = counted(edited.count, "caption", "captions")
            raise AltogetherError(
                f"{self.path} has {have} edited by hand ({edited}), which --overwrite does not "
                "replace: move the file away, or choose another --out."
            )

    def former_caption(self, name: str) -> str | None:
        """The caption in OUT of an image whose row is being overwritten, if it has one."""
        offset = self._overwritten.get(name)
        if offset is None:
            return None
        with self.path.open("rb") as file:
            file.seek(offset)
            row = parse_row(file.readline(MAX_ROW_BYTES))
        return None if row is None else row.get("caption")

    def former_rows(self) -> Iterator[Row]:
        """Every row that earlier runs left, those of OUT first; a name may come more than once."""
        if self._identity is not None:
            with self.path.open("rb") as file:
                yield from (row for _, row, _ in read_rows(file) if row is not None)
        with self._journal.open() as journal:
            yield from (row for _, row, _ in read_rows(journal) if row is not None)

    def rows(self) -> Iterator[Row]:
        """Every row that is there after `recover`, those of OUT first."""
        if self._in_output:
            with self.path.open("rb") as file:
                for offset, row, _ in read_rows(file):
                    if row is not None and self._in_output.get(row["file_name"]) == offset:
                        yield row
        with self._journal.open() as journal:
            yield from (row for _, row, _ in read_rows(journal) if row is not None)

    def write(self, row: Row) -> None:
        """Append one row; after this call it survives the death of the process."""
        self._journal.append(encode_row(row))
        self._note_order(row["file_name"])

    def check(self) -> None:
        """Raise AltogetherError if the output was removed or replaced since it was opened."""
        self._journal.check()
        if self._in_output and identity(self.path) != self._identity:
            raise AltogetherError(
                f"{self.path} was removed or changed by something else while this run was adding "
                f"to it: put it back and run it again; the new rows are in {self._journal.path}."
            )

    def finish(self) -> None:
        """Make the rows the output."""
        if self._earlier.problems:
            self._earlier.set_aside()
        elif self._journal.size == 0 and self.path.exists() and self._needs_merge:
            return  # nothing new: the output stays as it is, to the byte
        self.check()
        if self._needs_merge or self._earlier.problems:
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

    def _forget(self) -> None:
        """Take nothing of the files as done, nor set anything aside: all of it is overwritten."""
        self._journal.cut(0)
        self._earlier = EarlierRows(self.path, self._journal)

    def _replaces(self, offset: int, row: Row) -> bool:
        """Whether a second row of the same name is the one to keep; the other one is set aside."""
        name = row["file_name"]
        first = self._in_output[name]
        replaces = "caption" in row or name in self.error_names
        other = first if replaces else offset
        with self.path.open("rb") as file:
            file.seek(other)
            length = len(file.readline(MAX_ROW_BYTES))
        self._earlier.put_aside(f"a second row of {name}", in_output=(other, length))
        return replaces

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
        with self._journal.open() as journal:
            for offset, row, _ in read_rows(journal):
                if row is not None:
                    self._place_in_journal(row["file_name"], offset)
        former_path = self.path if self._in_output else Path(os.devnull)
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
                merged.write(file.readline().rstrip(b"\n") + b"\n")
        self._journal.remove()
