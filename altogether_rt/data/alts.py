"""Reads alt-texts, the texts that web pages give for image files.

JSON lines with `file_name` and `alt` (a text or a list), `alts`, or `text` (Hugging Face's
`metadata.jsonl`); a JSON object `{file: text}`; CSV, TSV or Parquet with such columns; and the same
with gzip or Zstandard. A record that cannot be read is left out, counted and reported by its line;
the others are not affected. `alt_files` has the formats.
"""

from __future__ import annotations

import math
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from altogether_rt.data.alt_files.columns import ALT_KEYS, TEXT_KEYS, Columns, find_key, image_name
from altogether_rt.data.alt_files.json_records import read_json, records_of_json
from altogether_rt.data.alt_files.lines import FileNotes
from altogether_rt.data.alt_files.records import read_records
from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError

__all__ = [
    "MAX_ALT_CHARS",
    "AltTable",
    "Alts",
    "alt_texts",
    "clean_text",
    "image_name",
    "iter_alts",
    "make_alts",
    "read_alts",
    "read_json",
    "read_records",
    "records_of_json",
]

#: Maximum characters of all alt-texts of one image. A prompt holds a few hundred tokens, so text
#: beyond this would never be read, and ten million characters must not be kept in memory.
MAX_ALT_CHARS: Final = 8192

#: C0 and C1 controls (line ends among them), line and paragraph separators.
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Alts:
    """The alt-texts of one image, in the order in which they were read."""

    texts: tuple[str, ...] = ()
    truncated: bool = False  # text beyond MAX_ALT_CHARS was left out
    used: tuple[str, ...] | None = None  # what a captioner reads instead, see `data.hygiene`
    notes: tuple[str, ...] = ()  # of each text, why something else is read; "" if it is not
    languages: tuple[str, ...] = ()  # of each text, where it was asked for

    @property
    def read(self) -> tuple[str, ...]:
        """The texts that a captioner reads."""
        return self.texts if self.used is None else self.used

    @property
    def json(self) -> str | list[str]:
        """The form they have in a row: a text, "" for none, a list for several."""
        return list(self.texts) if len(self.texts) > 1 else "".join(self.texts)


_NO_ALTS: Final = Alts()


@dataclass
class AltTable:
    """Alt-texts by file name."""

    by_name: dict[str, Alts] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)  # lines left out
    num_truncated: int = 0
    num_used: int = 0  # records with a file name and, perhaps empty, alt-texts
    notes: FileNotes = field(default_factory=FileNotes)

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
        alts = self.by_name[name] = make_alts(texts, before)
        self.num_truncated += alts.truncated and not before.truncated


def make_alts(texts: Iterable[str], before: Alts = _NO_ALTS) -> Alts:
    """Alt-texts as they are captioned: those of `before` and `texts`, cleaned and cut to
    MAX_ALT_CHARS in all; empty ones are left out."""
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
    return Alts(before.texts + tuple(kept), truncated)


def clean_text(text: str) -> str:
    """One line of well-formed text: each run of line ends and controls becomes one space."""
    text = _CONTROLS.sub(" ", text)
    return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text).strip()


def read_alts(
    path: str | Path, root: str | Path | None = None, columns: Columns | None = None
) -> AltTable:
    """The alt-texts in a file. Absolute file names within `root` are made relative to it.

    columns: where names and texts are; found by their usual names where it does not say so. Raises
    AltogetherError if the file cannot be read at all.
    """
    table = AltTable()
    for name, texts in iter_alts(path, table.problems, root, columns, table.notes):
        table.add(name, texts)
        table.num_used += 1
    return table


def iter_alts(
    path: str | Path,
    problems: Problems,
    root: str | Path | None = None,
    columns: Columns | None = None,
    notes: FileNotes | None = None,
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The file name and the alt-texts of each record, as they are written; none are kept.

    Records that cannot be read go to `problems`. `root`, `columns` and errors are those of
    `read_alts`.
    """
    path = Path(path)
    columns = columns or Columns()
    relative = _relative_to(root)
    try:
        if not path.is_file():
            raise AltogetherError(f"there is no alt-text file {path}.")
        for where, record in read_records(path, problems, notes, columns):
            name = image_name(record, columns.name)
            if name is None:
                problems.add(f"{where}: no {columns.name or 'file_name'}")
                continue
            try:
                texts = alt_texts(record, columns.text, ALT_KEYS)
            except ValueError as error:
                problems.add(f"{where}: {error}")
                continue
            if texts is None:
                problems.add(f"{where}: no {columns.text or ', '.join(TEXT_KEYS[:3])}")
            else:
                yield relative(name), texts
    except OSError as error:
        raise AltogetherError(f"{path} cannot be read: {error.strerror or error}.") from error


def alt_texts(
    record: Mapping[Any, Any], key: str | None = None, keys: tuple[str, ...] = TEXT_KEYS
) -> tuple[str, ...] | None:
    """The alt-texts of a record: the value of `key`, or of the first of `keys` that it has.

    The value is a text or a list of texts; null and NaN mean that there is no text. Returns None if
    the record has none of the keys. Raises ValueError, which says why, for any other value.
    """
    found = find_key(record, keys if key is None else (key,))
    if found is None:
        return None
    value = record[found]
    texts = [text for text in (value if isinstance(value, list) else [value]) if not _absent(text)]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{found} is neither a text nor a list of texts")
    return tuple(texts)


def _absent(value: Any) -> bool:
    """Whether a value is null or NaN, which is how pandas writes a missing one."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _relative_to(root: str | Path | None) -> Callable[[str], str]:
    """A function that makes absolute names within `root` relative to it."""
    if root is None:
        return _plain
    # As the user named the folder, and without links.
    prefixes = {
        path.as_posix().rstrip("/") + "/" for path in (Path(root).absolute(), Path(root).resolve())
    }

    def relative(name: str) -> str:
        name = _plain(name)
        if name.startswith("/"):
            for prefix in prefixes:
                if name.startswith(prefix):
                    return name[len(prefix) :]
        return name

    return relative


def _plain(name: str) -> str:
    return name if "://" in name else posixpath.normpath(name)
