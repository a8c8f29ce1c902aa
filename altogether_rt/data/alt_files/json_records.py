"""Records of JSON files: one value a line, or one value in the whole file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from altogether_rt.data.alt_files.lines import FileNotes, head_of, text_encoding, text_lines
from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError

__all__ = ["json_line_records", "json_records", "read_json", "records_of_json"]

#: Maximum bytes of a file that must be parsed as a whole.
_MAX_WHOLE_BYTES: Final = 512 * 1024 * 1024


def json_line_records(
    file: BinaryIO, problems: Problems, notes: FileNotes
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """(where, record) of each line, "line 7"; what is not a JSON object goes to `problems`."""
    known = -1
    for number, line in text_lines(file, problems, notes):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            problems.add(f"line {number}: not JSON")
            continue
        if not isinstance(record, dict):
            problems.add(f"line {number}: not a JSON object")
            continue
        if len(record) != known and len(notes.columns) < 1000:
            known = len(record)
            notes.columns.update(dict.fromkeys(map(str, record)))
        yield f"line {number}", record


def json_records(
    path: Path, file: BinaryIO, problems: Problems, notes: FileNotes
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Records of a JSON object `{file: text}`, of a list of records, or of JSON lines."""
    if _is_json_lines(head_of(file)):
        yield from json_line_records(file, problems, notes)
        return
    for where, record in records_of_json(read_json(path, file), path, problems):
        notes.columns.update(dict.fromkeys(map(str, record)) if not notes.columns else {})
        yield where, record


def _is_json_lines(head: bytes) -> bool:
    """Whether a file's first line is an object by itself and another one follows."""
    first, _, rest = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    if not first.startswith(b"{") or not rest.lstrip().startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def read_json(path: Path, file: BinaryIO) -> Any:
    """The JSON value of a whole file. Raises AltogetherError if it is not JSON or too large."""
    raw = file.read(_MAX_WHOLE_BYTES + 1)
    if len(raw) > _MAX_WHOLE_BYTES:
        raise AltogetherError(f"{path} is too large for one JSON value: use JSON lines.")
    encoding = text_encoding(raw[: 1 << 16])
    try:
        return json.loads(raw.decode("utf-8-sig" if encoding == "utf-8" else encoding))
    except (ValueError, RecursionError) as error:
        hint = "one record a line is .jsonl"
        raise AltogetherError(f"{path} is not a JSON file in UTF-8 ({hint}).") from error


def records_of_json(
    data: Any, path: Path, problems: Problems
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Where each record of a JSON value is, and the record: of `{file: text}`, of a list, or of
    `{"data": list}`.

    Raises AltogetherError for a value of another kind.
    """
    if isinstance(data, dict) and _are_records(data.get("data")):
        data = data["data"]  # MetaCLIP's annotations
    if isinstance(data, dict):
        for name, alt in data.items():
            yield f"entry {name[:80]!r}", {"file_name": name, "alt": alt}
    elif isinstance(data, list):
        for number, record in enumerate(data, 1):
            if isinstance(record, dict):
                yield f"record {number}", record
            else:
                problems.add(f"record {number}: not a JSON object")
    else:
        raise AltogetherError(f"{path} must hold an object or a list of records.")


def _are_records(value: Any) -> bool:
    """Whether a value is a list of objects, which alt-texts of a file named `data` are not."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)
