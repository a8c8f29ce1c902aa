"""Reads alt-texts, the texts that web pages give for image files.

JSON lines with `file_name` and `alt` (a text or a list), `alts`, or `text` (Hugging Face's
`metadata.jsonl`); a JSON object `{file: text}`; or CSV/TSV with such columns. A record that cannot
be read is left out, counted and reported by its line; the others are not affected.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError

__all__ = [
    "MAX_ALT_CHARS",
    "AltTable",
    "Alts",
    "alt_texts",
    "clean_text",
    "iter_alts",
    "read_alts",
    "read_json",
    "read_records",
    "records_of_json",
]

#: Maximum characters of all alt-texts of one image. A prompt holds a few hundred tokens, so text
#: beyond this would never be read, and ten million characters must not be kept in memory.
MAX_ALT_CHARS: Final = 8192

#: Maximum bytes of one line, and of a file that must be parsed as a whole.
_MAX_LINE_BYTES: Final = 64 * 1024 * 1024
_MAX_WHOLE_BYTES: Final = 512 * 1024 * 1024

#: Keys of the text, in order of preference.
_TEXT_KEYS: Final = ("alt", "alts", "text")

#: C0 and C1 controls (line ends among them), line and paragraph separators.
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Alts:
    """The alt-texts of one image, in the order in which they were read."""

    texts: tuple[str, ...] = ()
    truncated: bool = False  # text beyond MAX_ALT_CHARS was left out

    @property
    def json(self) -> str | list[str]:
        """The form they have in a row: a text, "" for none, a list for several."""
        return list(self.texts) if len(self.texts) > 1 else "".join(self.texts)


@dataclass
class AltTable:
    """Alt-texts by file name."""

    by_name: dict[str, Alts] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)  # lines left out
    num_truncated: int = 0

    def get(self, name: str) -> Alts:
        """Alt-texts of a file, by its path relative to the folder, in any Unicode normal form."""
        found = self.by_name.get(name)
        if found is None and not name.isascii():
            forms = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
            found = next((self.by_name[f] for f in forms if f in self.by_name), None)
        return found or Alts()

    def without_image(self, names: Iterable[str]) -> Problems:
        """The files that have alt-texts but are not in `names`."""
        known = set(names)
        known |= {unicodedata.normalize("NFC", name) for name in known if not name.isascii()}
        missing = Problems()
        for name in self.by_name:
            if name not in known and unicodedata.normalize("NFC", name) not in known:
                missing.add(name)
        return missing

    def add(self, name: str, texts: Iterable[str]) -> None:
        """Append alt-texts of a file, cleaned and cut to MAX_ALT_CHARS."""
        before = self.by_name.get(name, Alts())
        room = MAX_ALT_CHARS - sum(map(len, before.texts))
        kept, truncated = [], before.truncated
        for text in texts:
            # Cut before cleaning too, so that ten megabytes are not cleaned in vain.
            clean = clean_text(text[: 4 * MAX_ALT_CHARS])
            truncated |= len(clean) > room or len(text) > 4 * MAX_ALT_CHARS
            clean = clean[:room].rstrip()
            room -= len(clean)
            if clean:
                kept.append(clean)
        self.num_truncated += truncated and not before.truncated
        self.by_name[name] = Alts(before.texts + tuple(kept), truncated)


def clean_text(text: str) -> str:
    """One line of well-formed text: each run of line ends and controls becomes one space."""
    text = _CONTROLS.sub(" ", text)
    return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text).strip()


def read_alts(path: str | Path, root: str | Path | None = None) -> AltTable:
    """The alt-texts in a file. Absolute file names within `root` are made relative to it.

    Raises AltogetherError if the file cannot be read at all.
    """
    table = AltTable()
    for name, texts in iter_alts(path, table.problems, root):
        table.add(name, texts)
    return table


def iter_alts(
    path: str | Path, problems: Problems, root: str | Path | None = None
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The file name and the alt-texts of each record, as they are written; none are kept.

    Records that cannot be read go to `problems`. `root` and errors are those of `read_alts`.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise AltogetherError(f"there is no alt-text file {path}.")
        for where, record in read_records(path, problems):
            texts = _texts(where, record, problems)
            if texts is not None:
                yield _relative(record["file_name"], root), texts
    except OSError as error:
        raise AltogetherError(f"{path} cannot be read: {error.strerror}.") from error


def alt_texts(record: Mapping[Any, Any]) -> tuple[str, ...] | None:
    """The alt-texts of a record: the value of `alt`, `alts` or `text`, the first that it has.

    The value is a text or a list of texts; null and NaN mean that there is no text. Returns None if
    the record has none of the keys. Raises ValueError, which says why, for any other value.
    """
    key = next((key for key in _TEXT_KEYS if key in record), None)
    if key is None:
        return None
    value = record[key]
    texts = [text for text in (value if isinstance(value, list) else [value]) if not _absent(text)]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{key} is neither a text nor a list of texts")
    return tuple(texts)


def _absent(value: Any) -> bool:
    """Whether a value is null or NaN, which is how pandas writes a missing one."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def read_records(path: Path, problems: Problems) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Where each record of a file is ("line 3"), and the record, in any format of `read_alts`.

    What is not a record is added to `problems`. Raises OSError if the file cannot be read,
    AltogetherError if it is not of the format that its suffix names.
    """
    with path.open("rb") as file:
        yield from _records(path, file, problems)


def _records(
    path: Path, file: BinaryIO, problems: Problems
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """(where, record) of each record; what is not a record goes to `problems`."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        yield from _csv_records(file, "\t" if suffix == ".tsv" else ",", problems)
    elif suffix == ".json":
        yield from records_of_json(read_json(path, file), path, problems)
    else:
        for number, line in _lines(file, problems):
            record = _parse(line, f"line {number}", problems)
            if record is not None:
                yield f"line {number}", record


def _lines(file: BinaryIO, problems: Problems) -> Iterator[tuple[int, bytes]]:
    """Non-blank lines, numbered from 1; too long ones are skipped without being kept in memory."""
    number = 0
    while line := file.readline(_MAX_LINE_BYTES):
        number += 1
        if len(line) == _MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(_MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            problems.add(f"line {number}: longer than {_MAX_LINE_BYTES:,} bytes")
        elif line.strip():
            yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _parse(line: bytes, where: str, problems: Problems) -> Mapping[Any, Any] | None:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        problems.add(f"{where}: not UTF-8")
    except (ValueError, RecursionError):
        problems.add(f"{where}: not JSON")
    else:
        if isinstance(record, dict):
            return record
        problems.add(f"{where}: not a JSON object")
    return None


def read_json(path: Path, file: BinaryIO) -> Any:
    """The JSON value of a whole file. Raises AltogetherError if it is not JSON or too large."""
    raw = file.read(_MAX_WHOLE_BYTES + 1)
    try:
        if len(raw) > _MAX_WHOLE_BYTES:
            raise AltogetherError(f"{path} is too large for one JSON value: use JSON lines.")
        return json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        hint = "one record a line is .jsonl"
        raise AltogetherError(f"{path} is not a JSON file in UTF-8 ({hint}).") from error


def records_of_json(
    data: Any, path: Path, problems: Problems
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Where each record of a JSON value is, and the record: of `{file: text}` or of a list.

    Raises AltogetherError for a value of another kind.
    """
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


def _csv_records(
    file: BinaryIO, delimiter: str, problems: Problems
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
    reader = csv.reader(text, delimiter=delimiter)
    header: list[str] | None = None
    while True:
        where = f"line {reader.line_num + 1}"  # the first one of the record
        try:
            cells = next(reader, None)
        except csv.Error as error:  # a field beyond csv's own limit, a stray quote
            problems.add(f"{where}: {error}")
            continue
        if cells is None:
            return
        if not cells:  # a blank line
            continue
        if header is None:
            header = cells
            continue
        yield where, dict(itertools.zip_longest(header, cells[: len(header)]))


def _texts(where: str, record: Mapping[Any, Any], problems: Problems) -> tuple[str, ...] | None:
    """The alt-texts of a record that names its file; otherwise None, and a problem more."""
    name = record.get("file_name")
    if not isinstance(name, str) or not name:
        problems.add(f"{where}: no file_name")
        return None
    try:
        texts = alt_texts(record)
    except ValueError as error:
        problems.add(f"{where}: {error}")
        return None
    if texts is None:
        problems.add(f"{where}: no {', '.join(_TEXT_KEYS)}")
    return texts


def _relative(name: str, root: str | Path | None) -> str:
    name = posixpath.normpath(name)
    if root is not None and name.startswith("/"):
        prefix = Path(root).resolve().as_posix().rstrip("/") + "/"
        name = name.removeprefix(prefix)
    return name
