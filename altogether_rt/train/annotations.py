"""Records of training files: the image's name, its alt-texts, and the round to learn.

Rounds stand in a list, `rounds`, or, as in the annotations that MetaCLIP released, under keys of
their own: `{"data": [{"img_path": …, "alt": …, "round3": …}]}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

from PIL import Image

from altogether_rt.data.alts import alt_texts, image_name
from altogether_rt.data.file_hash import file_hash, is_file_hash
from altogether_rt.data.images import load_image
from altogether_rt.errors import ImageError

__all__ = ["Example", "load_annotated", "read_example", "read_name"]

_ROUND: Final = re.compile(r"round_?([1-9]\d?)")


@dataclass(frozen=True)
class Example:
    """The texts of one image."""

    alts: tuple[str, ...]
    caption: str  # the annotation round that is learnt
    #: What an annotator without the alt-text would write; None: unknown, `caption` is used instead.
    caption_without_alt: str | None = None
    image_hash: str = ""  # `file_hash` of the image that the texts are of; "": unknown


def read_name(record: Mapping[Any, Any], *, inside: bool) -> str:
    """The image's file name, relative to the folder of images.

    inside: whether it must not lead out of that folder. Raises ValueError if it does, or if there
    is none.
    """
    name = image_name(record)
    if name is None:
        raise ValueError("no file_name")
    if inside:
        plain = PurePosixPath(name)
        hostile = "\0" in name or "://" in name or plain.is_absolute() or ".." in plain.parts
        if hostile or PureWindowsPath(name).drive:
            raise ValueError(f"{name[:80]!r} leads out of the folder of images")
    return name


def read_example(record: Mapping[Any, Any], round_number: int | None = None) -> Example:
    """The texts of a record. round_number: from 1, the alt-text; None: the last that it has.

    Raises ValueError for a record whose alt-texts are not text, whose caption is not or is blank,
    or without that round.
    """
    alts = alt_texts(record) or ()
    if (rounds := record.get("rounds")) and isinstance(rounds, list):
        found = dict(enumerate(rounds, 1))
    else:
        found = _numbered_rounds(record)
        if not found and round_number is None and "caption" in record:
            found = {1: record["caption"]}
    number = max(found, default=0) if round_number is None else round_number
    if number not in found and round_number is not None:
        raise ValueError(f"no round {round_number}")
    caption = found.get(number)
    if not isinstance(caption, str) or not caption.strip():  # it would be learnt to say nothing
        raise ValueError("no text in rounds or caption")
    known = record.get("image_hash")
    return Example(alts, caption, image_hash=str(known) if is_file_hash(known) else "")


def load_annotated(path: Path, image_hash: str) -> Image.Image:
    """The image that the texts of an `Example` are of.

    Raises ImageError if it cannot be read, or if another image has taken its name.
    """
    image = load_image(path)
    if image_hash and file_hash(path) != image_hash:
        raise ImageError("another_image", f"{path.name} is not the image that its texts are of")
    return image


def _numbered_rounds(record: Mapping[Any, Any]) -> dict[int, Any]:
    """By number, `round2` and the like; those without a text are rounds that nobody wrote."""
    found = {}
    for key, value in record.items():
        match = _ROUND.fullmatch(key) if isinstance(key, str) else None
        if match and not (value is None or (isinstance(value, str) and not value.strip())):
            found[int(match[1])] = value
    return found
