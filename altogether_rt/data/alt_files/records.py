"""Records of a file of any of the formats that alt-texts, references and training data come in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from altogether_rt.data.alt_files.columns import Columns
from altogether_rt.data.alt_files.delimited import delimited_records
from altogether_rt.data.alt_files.json_records import json_line_records, json_records
from altogether_rt.data.alt_files.lines import FileNotes, head_of, open_plain, plain_suffix
from altogether_rt.data.alt_files.parquet import parquet_records
from altogether_rt.data.problems import Problems

__all__ = ["read_records"]


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
    if head.startswith(b"PAR1") or suffix == ".parquet":
        yield from parquet_records(path, file, notes)
    elif suffix in (".csv", ".tsv", ".tab", ".psv"):
        tabs = suffix in (".tsv", ".tab")
        yield from delimited_records(file, problems, notes, tabs=tabs, columns=columns)
    elif suffix == ".json":
        yield from json_records(path, file, problems, notes)
    elif suffix == ".txt" and not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        yield from delimited_records(file, problems, notes, columns=columns)
    else:
        yield from json_line_records(file, problems, notes)
