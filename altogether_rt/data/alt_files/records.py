"""Records of a file of any of the formats that alt-texts, references and training data come in."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from altogether_rt.data.alt_files.columns import Columns
from altogether_rt.data.alt_files.delimited import delimited_records
from altogether_rt.data.alt_files.json_records import json_line_records, json_records
from altogether_rt.data.alt_files.lines import FileNotes, head_of, open_plain, plain_suffix
from altogether_rt.data.alt_files.parquet import parquet_records
from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError

__all__ = ["read_records"]

_DELIMITED: Final = (".csv", ".tsv", ".tab", ".psv")
#: How .xlsx and .ods (archives), and .xls begin.
_WORKBOOKS: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")


def read_records(
    path: Path,
    problems: Problems,
    notes: FileNotes | None = None,
    columns: Columns | None = None,
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Where each record of a file is ("line 3"), and the record, in any format of `read_alts`.

    What is not a record is added to `problems`, what else there is to say to `notes`. Raises
    OSError if the file cannot be read, AltogetherError if it is not of the format that its suffix
    names.
    """
    notes = FileNotes() if notes is None else notes
    with open_plain(path) as file:
        for where, record in _records(path, file, problems, notes, columns):
            notes.num_records += 1
            yield where, record


def _records(
    path: Path, file: BinaryIO, problems: Problems, notes: FileNotes, columns: Columns | None
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    suffix = plain_suffix(path)
    head = head_of(file)
    _refuse_other_formats(path, suffix, head)
    if head.startswith(b"PAR1") or suffix == ".parquet":
        yield from parquet_records(path, file, notes)
    elif suffix in _DELIMITED:
        tabs = suffix in (".tsv", ".tab")
        yield from delimited_records(file, problems, notes, tabs=tabs, columns=columns)
    elif suffix == ".json":
        yield from json_records(path, file, problems, notes)
    elif suffix == ".txt" and not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        yield from delimited_records(file, problems, notes, columns=columns)
    else:
        yield from json_line_records(file, problems, notes)


def _refuse_other_formats(path: Path, suffix: str, head: bytes) -> None:
    """Raise AltogetherError for what people name in place of a table, and is never one."""
    if head.startswith(_WORKBOOKS):
        raise AltogetherError(
            f"{path} is a spreadsheet or an archive, not a table in a text file: save it as CSV "
            "(UTF-8)."
        )
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith(b"<") and suffix not in _DELIMITED:
        raise AltogetherError(
            f"{path} is a web page or XML: list its images and their texts in a table (CSV) or in "
            "JSON lines."
        )
