"""A contact sheet: each image with its alt-text and its caption, in one HTML file.

The file is self-contained (thumbnails inside, nothing fetched, one script of ours that its policy
allows by its hash), so it can be opened from disk and sent to others. All text that comes from
outside is escaped. Captions can be edited there, and saved as rows: the button gives a file with
every row shown, as it was but for the captions that were changed.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import itertools
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from PIL import Image

from altogether_rt.artifacts.files import new_file
from altogether_rt.data.check_counts import flags_of
from altogether_rt.data.images import ImageLimits, open_image
from altogether_rt.data.rows import Row, caption_fault, read_rows
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.wording.checks import CHECK_FLAGS

__all__ = ["MAX_SHEET_ROWS", "check_sheet", "image_html", "sheet_css", "text_html", "write_sheet"]

#: Maximum number of rows shown: a page with thousands of thumbnails would hardly open.
MAX_SHEET_ROWS: Final = 500

#: Longest side of a thumbnail in pixels: twice the displayed size, for high-density screens.
_THUMBNAIL_SIDE: Final = 480

#: Bytes at the start of a sheet in which its title is, and how that begins.
_HEAD_BYTES: Final = 4096
_TITLE: Final = b"<title>Captions of "

#: Maximum number of characters shown of a text.
_MAX_SHOWN_CHARS: Final = 1200


#: Shown by the script, without which there is nothing to save.
_BAR: Final = (
    '<section id="bar" aria-label="Editing" hidden>\n'
    '<button id="save" type="button">Save captions</button>\n'
    '<p id="status" role="status"></p>\n'
    '<p class="help">Click a caption to edit it. Enter ends, Escape restores it.</p>\n</section>\n'
)


#: What a remark says of a caption, by `caption_fault`.
_FAULTS: Final = {
    "empty": "the caption is empty",
    "loop": "it repeats itself",
    "same_as_alt": "equal to the alt-text",
}


def write_sheet(
    rows_path: str | Path,
    root: str | Path,
    path: str | Path,
    *,
    limits: ImageLimits | None = None,
    max_rows: int = MAX_SHEET_ROWS,
    notes: Sequence[str] = (),
) -> int:
    """Write a contact sheet of the rows of `rows_path` to `path`; return the number of rows shown.

    root: the folder of the images. notes: sentences for its head. The sheet is written whole or not
    at all. Raises AltogetherError for what `check_sheet` refuses.
    """
    path = Path(path)
    check_sheet(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Path(rows_path).open("rb") as file:
        total = failed = doubtful = flagged = 0
        for _, row, _ in read_rows(file):
            total += row is not None
            failed += row is not None and "error" in row
            doubtful += row is not None and "error" not in row and caption_fault(row) is not None
            flagged += row is not None and bool(flags_of(row))
        file.seek(0)
        rows = (row for _, row, _ in read_rows(file) if row is not None)
        shown = itertools.islice(rows, max_rows)
        with new_file(path) as sheet:
            for text in _page(
                shown,
                Path(root),
                limits,
                _Counts(total, failed, doubtful, flagged, max_rows),
                notes,
            ):
                sheet.write(text.encode("utf-8", "replace"))
    return min(total, max_rows)


def check_sheet(path: Path) -> None:
    """Raise AltogetherError if something other than a contact sheet is at `path`, or none can be
    written there."""
    _check_folder(path)
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # of a link, nothing is read or replaced
            raise AltogetherError(f"{path} is not a regular file: name another for the sheet.")
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    with os.fdopen(descriptor, "rb") as file:
        head = file.read(_HEAD_BYTES)
    if head and not (head.startswith(b"<!doctype html>\n<html") and _TITLE in head):
        raise AltogetherError(
            f"{path} is not a contact sheet, and it is not replaced: name another, or remove it."
        )


def _check_folder(path: Path) -> None:
    folder = next((parent for parent in path.absolute().parents if os.path.lexists(parent)), path)
    problem = None
    if not folder.is_dir():
        problem = f"{folder} is not a folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        problem = f"no right to write to {folder}"
    if problem is not None:
        raise AltogetherError(f"{path} cannot be written ({problem}): name another for the sheet.")


@dataclass(frozen=True)
class _Counts:
    """How many rows there are; shown in the head of the page."""

    total: int
    failed: int
    doubtful: int
    flagged: int  # by the checks of their captions
    max_rows: int

    def __str__(self) -> str:
        parts = [f"{self.total - self.failed:,} captioned"]
        if self.doubtful:
            parts.append(f"{self.doubtful:,} of them doubtful")
        if self.flagged:
            parts.append(f"{self.flagged:,} marked by the checks")
        if self.failed:
            parts.append(f"{self.failed:,} could not be read")
        shown = f"; the first {self.max_rows:,} are shown" if self.total > self.max_rows else ""
        return ", ".join(parts) + shown


def _page(
    rows: Iterable[Row],
    root: Path,
    limits: ImageLimits | None,
    counts: _Counts,
    notes: Sequence[str],
) -> Iterator[str]:
    name = html.escape(root.resolve().name or str(root))
    remarks = "".join(f'<p class="remark">{text_html(note)}</p>\n' for note in notes)
    style, script = sheet_css(), _resource("sheet.js")
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        f'content="{_policy(style, script)}">\n'
        f"<title>Captions of {name}</title>\n<style>{style}</style>\n</head>\n"
        f'<body data-file="{html.escape(Path(root.name or "captions").name)}-edited.jsonl">\n'
        f"<header>\n<h1>{name}</h1>\n<p>{counts}</p>\n{remarks}</header>\n{_BAR}<main>\n"
    )
    for row in rows:
        yield _card(row, root, limits)
    yield f"</main>\n<script>{script}</script>\n</body>\n</html>\n"


def _policy(style: str, script: str) -> str:
    """The Content-Security-Policy of a page that has this style sheet and this script, no other."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
        for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; "
        f"script-src 'sha256-{script_hash}'; base-uri 'none'; form-action 'none'"
    )


def _card(row: Row, root: Path, limits: ImageLimits | None) -> str:
    name = row["file_name"]
    image = image_html(root / name, limits, row.get("caption", ""))
    alt = row.get("alt") or ""
    alts = [alt] if isinstance(alt, str) else [str(text) for text in alt]
    alt_html = "".join(f"<p>{text_html(text)}</p>" for text in alts if text)
    parts = [
        f"<article{_row_data(row)}>\n<figure>{image}</figure>\n<div>\n",
        f"<h2>{text_html(name)}</h2>\n",
        "<section><h3>Alt-text</h3>",
        alt_html or '<p class="none">none</p>',
        "</section>\n",
    ]
    if "error" in row:
        error = row["error"]
        kind = text_html(str(error.get("class", "")).replace("_", " "))
        message = text_html(str(error.get("message", "")))
        parts.append(f'<section class="error"><h3>{kind}</h3><p>{message}</p>')
    else:
        parts.append(
            f'<section class="caption"><h3>Caption</h3>{_caption_html(name, row["caption"])}'
        )
        parts.append(_remarks(row))
    parts.append("</section>\n</div>\n</article>\n")
    return "".join(parts)


def _caption_html(name: str, caption: str) -> str:
    """The caption; the script makes it editable, unless it is not there as a whole."""
    if len(caption) > _MAX_SHOWN_CHARS:
        return f"<p>{text_html(caption)}</p>"
    label = html.escape(f"Caption of {name}")
    return f'<p class="text" dir="auto" aria-label="{label}" role="note">{html.escape(caption)}</p>'


def _row_data(row: Row) -> str:
    """Attributes with the row as it was, and with what stands before and after its caption."""
    keys = list(row)
    data = {"row": json.dumps(row)}
    if "caption" in row:
        at = keys.index("caption")
        head = json.dumps({key: row[key] for key in keys[:at]})[:-1]
        tail = json.dumps({key: row[key] for key in keys[at + 1 :] if key != "edited"})[1:-1]
        data["head"] = f'{head}{", " if at else ""}"caption": '
        data["tail"] = f", {tail}" if tail else ""
    return "".join(f' data-{name}="{html.escape(text)}"' for name, text in data.items())


def _remarks(row: Row) -> str:
    remarks = []
    fault = caption_fault(row)
    if fault is not None:
        remarks.append(_FAULTS[fault])
    if row.get("finish_reason") == "length":
        remarks.append("cut at the longest length")
    if row.get("alt_truncated"):
        remarks.append("alt-text cut")
    if row.get("shortened"):
        remarks.append("shortened")
    shown = f'<p class="remark">{", ".join(remarks)}</p>' if remarks else ""
    return shown + _badges(row)


def _badges(row: Row) -> str:
    """What the checks say of a caption: a badge for each flag, with the words that it is about."""
    badges = []
    for flag in flags_of(row):
        new = [row["checks"].get(key) for key in ("new_names", "new_numbers")]
        words = [word for some in new if isinstance(some, list) for word in some]
        about = ": " + ", ".join(map(str, words)) if flag == "new_names" and words else ""
        label = text_html(flag.replace("_", " ") + about)
        badges.append(f'<li title="{html.escape(CHECK_FLAGS[flag])}">{label}</li>')
    return f'<ul class="checks" aria-label="Checks">{"".join(badges)}</ul>' if badges else ""


def sheet_css() -> str:
    """The style sheet of a contact sheet: colours for light and dark pages, layout of the cards."""
    return _resource("sheet.css")


def _resource(name: str) -> str:
    return resources.files("altogether_rt.data.sinks").joinpath(name).read_text("utf-8")


def image_html(path: Path, limits: ImageLimits | None = None, alt: str = "") -> str:
    """A thumbnail as a data URL, or a question mark if the image cannot be read.

    alt: what it shows, unless that stands beside it.
    """
    try:
        with open_image(path, limits) as image:
            image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
            with closing(io.BytesIO()) as buffer:
                image.save(buffer, "JPEG", quality=80)
                data = base64.b64encode(buffer.getvalue()).decode("ascii")
    except (ImageError, MemoryError):
        return '<span class="missing" role="img" aria-label="no picture">?</span>'
    return (
        f'<img src="data:image/jpeg;base64,{data}" width="{image.width}" height="{image.height}" '
        f'alt="{html.escape(alt[:_MAX_SHOWN_CHARS])}" loading="lazy">'
    )


def text_html(text: str) -> str:
    """The text, escaped, of bounded length, and isolated so that it cannot turn what follows."""
    shown = text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + " …"
    return f"<bdi>{html.escape(shown)}</bdi>"
