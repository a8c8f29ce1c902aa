"""Packs tasks into one HTML file for annotators without Python; answers come back as a file.

The file fetches nothing: styles, scripts and images are embedded, and its Content-Security-Policy
forbids everything else. Images are re-encoded without metadata such as time and location.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

from PIL import Image

from altogether_rt.annotation.answers import NOT_EXPORTED, current_answers
from altogether_rt.annotation.session import name_finder, page_state, page_task, tasks_for
from altogether_rt.annotation.work import Task, Work
from altogether_rt.artifacts.files import new_file
from altogether_rt.artifacts.own_files import check_own
from altogether_rt.data.alts import MAX_ALT_CHARS
from altogether_rt.data.images import open_image
from altogether_rt.data.sniff import SNIFF_BYTES, sniff_format
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.web.images import read_image_file

__all__ = ["DEFAULT_MAX_SIDE", "tasks_to_pack", "write_pack"]

#: Pixels of a packed image's longer side.
DEFAULT_MAX_SIDE: Final = 1600

_LOSSLESS: Final = frozenset({"BMP", "GIF", "PNG"})
_FOLDERS: Final = ("altogether_rt.annotation.page", "altogether_rt.web.assets")
#: How a packed page begins.
_PACKED: Final = re.compile(rb"<!doctype html>\n<html.{0,2000}<title>Annotation</title>", re.DOTALL)
_LINK: Final = re.compile(r'<link rel="stylesheet" href="([a-z.]+)">\n')
_SCRIPT: Final = re.compile(r'<script src="([a-z.]+)"></script>\n')


def tasks_to_pack(work: Work, annotator: str, also_for: Sequence[str] = ()) -> list[Task]:
    """The open round's tasks without an answer by `annotator`. Raises AltogetherError if none."""
    number = work.current_number
    answered = current_answers(work.answers().get(annotator, []), number)
    tasks = [task for task in tasks_for(work, annotator, also_for) if task.key not in answered]
    if not tasks:
        raise AltogetherError(f"{annotator} has answered everything in round {number}.")
    return tasks


def write_pack(
    work: Work,
    annotator: str,
    tasks: Sequence[Task],
    out: Path,
    *,
    max_side: int = DEFAULT_MAX_SIDE,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Write a page for these tasks of the open round, whole or not at all.

    max_side: larger images are shrunk to this many pixels. Raises AltogetherError if an image has
    changed, or if something other than a packed page is at `out`.
    """
    check_own(out, _PACKED, "a packed page")
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_file(out) as file:
        for part in _page(work, annotator, tasks, max_side, advance):
            file.write(part.encode("utf-8", "replace"))


def _page(
    work: Work,
    annotator: str,
    tasks: Sequence[Task],
    max_side: int,
    advance: Callable[[], None],
) -> Iterator[str]:
    page = _read("page.html")
    styles = [_read(name) for name in _LINK.findall(page)]
    names = [name.replace("server.js", "pack.js") for name in _SCRIPT.findall(page)]
    scripts = [_read(name) for name in names]
    policy = (
        f"default-src 'none'; img-src data:; script-src {_hashes(scripts)}; "
        f"style-src {_hashes(styles)}; base-uri 'none'; form-action 'none'"
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">\n'
    page = page.replace('<link rel="icon" href="icon.svg">\n', "")
    page = page.replace('<meta charset="utf-8">\n', '<meta charset="utf-8">\n' + meta)
    head, _, rest = page.partition(_LINK.search(page)[0])  # type: ignore[index]
    yield head
    yield from (f"<style>{style}</style>\n" for style in styles)
    body = _LINK.sub("", rest)
    before, _, _ = body.partition('<script src="')
    yield before
    finder = name_finder(work)
    data = {
        "id": secrets.token_hex(8),
        "state": page_state(annotator, work.current_number, work.guideline, ()),
        "tasks": [
            page_task(task, None, finder) | {"image_hash": task.image_hash} for task in tasks
        ],
        "not_exported": NOT_EXPORTED,
        "max_chars": MAX_ALT_CHARS,
    }
    yield f'<script type="application/json" id="data">{_json(data)}</script>\n'
    for index, task in enumerate(tasks):
        url = _image_url(work, task, max_side)
        yield f'<script type="text/plain" id="image-{index}">{url}</script>\n'
        advance()
    yield from (f"<script>{script}</script>\n" for script in scripts)
    yield "</body>\n</html>\n"


def _read(name: str) -> str:
    for package in _FOLDERS:
        file = resources.files(package).joinpath(name)
        if file.is_file():
            return file.read_text("utf-8")
    raise FileNotFoundError(name)


def _hashes(sources: Sequence[str]) -> str:
    digests = (hashlib.sha256(source.encode()).digest() for source in sources)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def _json(value: Any) -> str:
    """JSON without "<", so that an HTML parser sees no markup in it."""
    return json.dumps(value).replace("<", "\\u003c")


def _image_url(work: Work, task: Task, max_side: int) -> str:
    data = read_image_file(work.image_file(task))
    # Drawings and screenshots keep their edges where that does not cost much.
    may_be_png = sniff_format(data[:SNIFF_BYTES]) in _LOSSLESS
    try:
        with open_image(data, name=task.file_name) as image:
            image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
            encoded, kind = _encoded(image, "JPEG", quality=90), "jpeg"
            png = _encoded(image, "PNG") if may_be_png else b""
    except ImageError as error:
        raise AltogetherError(str(error)) from error
    if 0 < len(png) <= 2 * len(encoded):
        encoded, kind = png, "png"
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode('ascii')}"


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
