"""Records of CSV and TSV files; a stray quote costs the line that it is in, and no other."""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from altogether_rt.data.alt_files.columns import ALT_KEYS, NAME_KEYS, Columns, find_key
from altogether_rt.data.alt_files.lines import BLANKS, FileNotes, text_lines
from altogether_rt.data.problems import Problems
from altogether_rt.data.sniff import has_image_suffix

__all__ = ["delimited_records"]

_DELIMITERS: Final = (",", ";", "\t", "|")
#: Lines and characters that one quoted record may have. More than that is a quote without its pair.
_MAX_RECORD_LINES: Final = 1000
_MAX_RECORD_CHARS: Final = 1 << 20
#: Lines looked at to find the delimiter.
_SNIFFED_LINES: Final = 20
#: Cells that spreadsheets and pandas write for an absent text.
_ABSENT: Final = frozenset({"nan", "NaN", "NAN", "None", "null", "NULL", "<NA>", "<nan>"})


def delimited_records(
    file: BinaryIO,
    problems: Problems,
    notes: FileNotes,
    *,
    tabs: bool = False,
    columns: Columns | None = None,
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """(where, record) of each record: "line 7", its first line; cells by the header's names.

    tabs: a .tsv file, which has no quotes. Without a header, columns are named "1", "2", …, and
    additionally as the file name and the text if it is clear which they are.
    """
    lines = _Lines(text_lines(file, problems, notes, keep_blank=True))
    columns = columns or Columns()
    form = _sniff(lines, tabs, columns, notes)
    if form is None:
        return
    notes.columns.update(dict.fromkeys(form.columns))
    last_is_text = find_key(form.columns[-1:], (columns.text,) if columns.text else ALT_KEYS)
    width = len(form.columns)
    while (line := lines.next_nonblank()) is not None:
        number, text = line
        where = f"line {number}"
        cells = _cells(text, lines, form, notes)
        if isinstance(cells, str):
            problems.add(f"{where}: {cells}")
            continue
        if len(cells) > width:
            surplus = cells[width:]
            if last_is_text is not None and any(cell.strip() for cell in surplus):
                cells[width - 1 :] = [form.delimiter.join(cells[width - 1 :])]
                notes.joined.add(where)
            elif any(cell.strip() for cell in surplus):
                problems.add(f"{where}: {len(cells)} cells where the header has {width}")
                continue
        values = (_value(cell) for cell in cells[:width])
        yield where, dict(zip(form.columns, values, strict=False)) | form.missing(len(cells))


@dataclass(frozen=True)
class _Form:
    """How a file is laid out."""

    delimiter: str
    quotes: bool
    columns: tuple[str, ...]
    all_quoted: bool  # a file without quotes whose writer put each cell in them
    name_column: int | None  # where the file name is, if that is known

    def missing(self, num_cells: int) -> dict[str, None]:
        """The columns that a short line lacks."""
        return dict.fromkeys(self.columns[num_cells:])


class _Lines:
    """Lines that can be put back."""

    def __init__(self, lines: Iterator[tuple[int, str]]) -> None:
        self._lines = lines
        self._back: deque[tuple[int, str]] = deque()

    def next(self) -> tuple[int, str] | None:
        return self._back.popleft() if self._back else next(self._lines, None)

    def next_nonblank(self) -> tuple[int, str] | None:
        while (line := self.next()) is not None and not line[1].strip(BLANKS):
            pass
        return line

    def put_back(self, lines: list[tuple[int, str]]) -> None:
        self._back.extendleft(reversed(lines))


def _sniff(lines: _Lines, tabs: bool, columns: Columns, notes: FileNotes) -> _Form | None:
    """The layout, from the first lines; reads the header, if there is one. None: no lines."""
    first = lines.next_nonblank()
    if first is None:
        return None
    head = first[1].rstrip("\r\n")
    if not tabs and head.lower().startswith("sep=") and len(head) == 5:  # Excel's own line
        delimiter = head[4]
        notes.num_header_lines += 1
        first = lines.next_nonblank()
        if first is None:
            return None
    else:
        seen = [first]
        while len(seen) < _SNIFFED_LINES and (line := lines.next_nonblank()) is not None:
            seen.append(line)
        lines.put_back(seen[1:])
        delimiter = _delimiter([text for _, text in seen], tabs)
    quotes = not tabs
    notes.num_header_lines += 1
    header = [cell.strip() for cell in _split(first[1], delimiter, quotes)]
    all_quoted = not quotes and all(cell[:1] == cell[-1:] == '"' for cell in header)
    if all_quoted:
        header = [cell[1:-1] for cell in header]
    if _is_header(header, columns):
        name = find_key(header, (columns.name,) if columns.name else NAME_KEYS)
        index = None if name is None else header.index(name)
        return _Form(delimiter, quotes, tuple(header), all_quoted, index)
    images = [index for index, cell in enumerate(header) if has_image_suffix(cell)]
    numbers = [str(index + 1) for index in range(len(header))]
    if not images and not {columns.name, columns.text} & set(numbers):
        return _Form(
            delimiter, quotes, tuple(header), all_quoted, None
        )  # a header of unknown names
    lines.put_back([first])
    notes.num_header_lines -= 1
    name_column = images[0] if len(images) == 1 else None
    if name_column is not None and columns.name is None:
        numbers[name_column] = NAME_KEYS[0]
        if columns.text is None and len(header) == 2:
            numbers[1 - name_column] = ALT_KEYS[0]
    return _Form(delimiter, quotes, tuple(numbers), all_quoted, name_column)


def _is_header(cells: list[str], columns: Columns) -> bool:
    if columns.name is not None or columns.text is not None:
        return bool({columns.name, columns.text} & set(cells))
    return find_key(cells, NAME_KEYS) is not None or find_key(cells, ALT_KEYS) is not None


def _delimiter(texts: list[str], tabs: bool) -> str:
    """The delimiter of the first lines: the one by which the header's names are known, or that
    divides most lines into the same number of cells."""
    if tabs and any("\t" in text for text in texts):
        return "\t"

    def score(delimiter: str) -> tuple[int, int, int]:
        header = [cell.strip() for cell in _split(texts[0], delimiter, not tabs)]
        known = (find_key(header, NAME_KEYS), find_key(header, ALT_KEYS))
        widths = [len(_split(text, delimiter, not tabs)) for text in texts]
        same = sum(width == widths[0] > 1 for width in widths)
        return sum(key is not None for key in known), same, -_DELIMITERS.index(delimiter)

    return max(_DELIMITERS, key=score)


def _split(text: str, delimiter: str, quotes: bool) -> list[str]:
    """Cells of one line, quotes read leniently."""
    text = text.rstrip("\r\n")
    if not quotes or '"' not in text:
        return text.split(delimiter)
    try:
        return next(csv.reader([text], delimiter=delimiter), [])
    except csv.Error:
        return text.split(delimiter)


def _cells(text: str, lines: _Lines, form: _Form, notes: FileNotes) -> list[str] | str:
    """The cells of the record that begins with the line `text`, or why there are none."""
    text = text.rstrip("\r\n") if '"' not in text else text
    if not form.quotes or '"' not in text:
        cells = text.rstrip("\r\n").split(form.delimiter)
        limit = csv.field_size_limit()
        if len(text) > limit and max(map(len, cells)) > limit:
            return f"field larger than field limit ({limit})"
        return cells if '"' not in text else [_unquoted(cell, form) for cell in cells]
    try:
        return _strict(text, form)
    except csv.Error as error:
        if "unexpected end" in str(error):
            return _record_of_lines(text, lines, form, notes)
        if "field limit" in str(error):
            return str(error)
    # Text with quotes of its own, as `"Big" boat`: taken as it stands, if its cells are clear.
    plain = text.rstrip("\r\n").split(form.delimiter)
    return plain if len(plain) == len(form.columns) else "quotes that are not in pairs"


def _unquoted(cell: str, form: _Form) -> str:
    """A cell of a file without quotes: as it stands, unless quotes within are doubled, which only
    a writer of CSV does."""
    inner = cell[1:-1]
    if len(cell) < 2 or not cell[0] == cell[-1] == '"' or '"' in inner.replace('""', ""):
        return cell
    return inner.replace('""', '"') if form.all_quoted or '""' in inner else cell


def _strict(text: str, form: _Form) -> list[str]:
    text = text.removesuffix("\n").removesuffix("\r")
    parts = text.split("\n")  # not splitlines: U+2028 is part of a text
    parts[:-1] = [part + "\n" for part in parts[:-1]]
    rows = list(csv.reader(parts, delimiter=form.delimiter, strict=True))
    return rows[0] if len(rows) == 1 else text.split(form.delimiter)


def _record_of_lines(text: str, lines: _Lines, form: _Form, notes: FileNotes) -> list[str] | str:
    """A record whose quoted text goes over several lines, if it does; if not, the lines after the
    first are put back."""
    taken: list[tuple[int, str]] = []
    whole = text
    while len(taken) < _MAX_RECORD_LINES and len(whole) < _MAX_RECORD_CHARS:
        line = lines.next()
        if line is None:
            break
        taken.append(line)
        if _looks_like_a_record(line[1], form):
            break
        whole += line[1]
        if '"' not in line[1]:
            continue
        try:
            cells = _strict(whole, form)
        except csv.Error as error:
            if "unexpected end" in str(error):
                continue
            break
        if len(cells) != len(form.columns):
            break
        notes.num_continued += sum(bool(line.strip(BLANKS)) for _, line in taken)
        return cells
    lines.put_back(taken)
    return "a quote is opened and not closed"


def _looks_like_a_record(text: str, form: _Form) -> bool:
    """Whether a line within quotes is a record by itself, so that the quote was a stray one."""
    cells = _split(text, form.delimiter, quotes=True)
    if len(cells) < len(form.columns) or form.name_column is None:
        return False
    return has_image_suffix(cells[form.name_column].strip())


def _value(cell: str) -> Any:
    """A cell's text; None where it says that there is none; a list of texts written as JSON."""
    if cell in _ABSENT:
        return None
    if cell.startswith('["') and cell.endswith("]"):
        try:
            texts = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
        if all(text is None or isinstance(text, str) for text in texts):
            return texts
    return cell
