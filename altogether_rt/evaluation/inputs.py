"""Reads captions and references, and counts what is missing or unreadable."""

from __future__ import annotations

import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from altogether_rt.data.alts import (
    MAX_ALT_CHARS,
    AltTable,
    clean_text,
    read_json,
    read_records,
    records_of_json,
)
from altogether_rt.data.file_hash import is_file_hash
from altogether_rt.data.problems import Problems
from altogether_rt.data.rows import as_row
from altogether_rt.errors import AltogetherError, ImageError

__all__ = [
    "Captions",
    "References",
    "image_key",
    "image_path",
    "read_captions",
    "read_references",
]

#: Where references stand in a record, the first that is there; of rounds, the last counts.
_REFERENCE_KEYS: Final = ("references", "rounds", "captions", "caption")


def image_key(name: str) -> str:
    """The key that file names are matched by: Unicode NFC (macOS uses NFD), without `./`."""
    return unicodedata.normalize("NFC", posixpath.normpath(name))


def image_path(root: Path, name: str) -> Path:
    """The image file `name` in the folder `root`.

    Raises ImageError if the name leads out of the folder: an untrusted file of captions must not
    choose which files are read.
    """
    relative = posixpath.normpath(name)
    if relative.startswith(("/", "../")) or relative in ("..", "."):
        raise ImageError("not_a_file", f"{name} is not in the image folder.")
    return root / relative


@dataclass
class Captions:
    """The captions of one system, by image."""

    path: Path
    texts: dict[str, str] = field(default_factory=dict)  # image -> caption, in file order
    files: dict[str, str] = field(default_factory=dict)  # image -> file_name as in the row
    #: Empty for an image that is known to have no alt-text; without the image if that is not known.
    alts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)  # image -> class of its error row
    hashes: dict[str, str] = field(default_factory=dict)  # image -> its file's, where rows have it
    problems: Problems = field(default_factory=Problems)  # records that are not rows
    num_repeated: int = 0  # rows replaced by a later row of the same image

    def images_changed(self, other: Captions) -> list[str]:
        """Images of both that were not the same file when they were captioned."""
        both = self.hashes.keys() & other.hashes.keys()
        return sorted(image for image in both if self.hashes[image] != other.hashes[image])

    def error_counts(self) -> dict[str, int]:
        """The number of error rows of each class."""
        return dict(sorted(Counter(self.errors.values()).items()))


@dataclass
class References:
    """The reference captions of each image."""

    path: Path
    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    alts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)


def read_captions(path: Path, alts: AltTable | None = None) -> Captions:
    """Rows of `altogether-rt caption`, or any records with `file_name` and `caption`.

    alts: used instead of the rows' own alt-texts where they have an image. Raises AltogetherError
    if the file cannot be read or holds no caption.
    """
    captions = Captions(path)
    for where, record in _records(path, captions.problems, "captions"):
        row = as_row(record)
        if row is None:
            captions.problems.add(f"{where}: no file_name with a caption")
            continue
        name = image_key(row["file_name"])
        captions.num_repeated += name in captions.texts or name in captions.errors
        captions.texts.pop(name, None)
        captions.errors.pop(name, None)
        if isinstance(row.get("caption"), str):
            captions.texts[name] = _clean(row["caption"])
        else:
            captions.errors[name] = str(row["error"]["class"])
        captions.files[name] = row["file_name"]
        captions.hashes.pop(name, None)
        if is_file_hash(row.get("image_hash")):
            captions.hashes[name] = row["image_hash"]
        captions.alts.pop(name, None)
        given = alts.get(row["file_name"]).texts if alts is not None else ()
        if alts is not None or row.get("alt") is not None:
            captions.alts[name] = given or tuple(_texts(row.get("alt")))
    if not captions.texts:
        raise AltogetherError(
            f"{path} holds no caption: give records with file_name and caption"
            + (f" ({captions.problems})." if captions.problems else ".")
        )
    return captions


def read_references(path: Path) -> References:
    """Records with `references`, `rounds` (the last one is used) or `caption`; or COCO captions.

    Raises AltogetherError if the file cannot be read or holds no reference.
    """
    references = References(path)
    for where, record in _records(path, references.problems, "references"):
        name = record.get("file_name")
        key = next((key for key in _REFERENCE_KEYS if record.get(key)), None)
        if not isinstance(name, str) or key is None:
            wanted = ", ".join(_REFERENCE_KEYS)
            references.problems.add(f"{where}: no file_name with one of {wanted}")
            continue
        texts = list(_texts(record[key]))
        if key == "rounds":
            texts = texts[-1:]
        if texts:
            name = image_key(name)
            references.texts[name] = references.texts.get(name, ()) + tuple(texts)
            alt = record.get("alts", record.get("alt"))
            if alt is not None:
                references.alts[name] = tuple(_texts(alt))
        else:
            references.problems.add(f"{where}: {key} holds no text")
    if not references.texts:
        raise AltogetherError(
            f"{path} holds no reference: give records with file_name and references or rounds, or "
            "COCO captions" + (f" ({references.problems})." if references.problems else ".")
        )
    return references


def _records(path: Path, problems: Problems, what: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Records of any format that alt-texts may have, and of COCO's captions."""
    if not path.is_file():
        raise AltogetherError(f"there is no file of {what} {path}.")
    try:
        if path.suffix.lower() != ".json":
            yield from read_records(path, problems)
            return
        with path.open("rb") as file:
            data = read_json(path, file)
    except OSError as error:
        raise AltogetherError(f"{path} cannot be read: {error.strerror}.") from error
    if isinstance(data, dict) and isinstance(data.get("annotations"), list):
        yield from _coco_records(data, path, problems)
    elif isinstance(data, dict):  # {file: text}
        key = "caption" if what == "captions" else what
        for name, text in data.items():
            yield f"entry {name[:80]!r}", {"file_name": name, key: text}
    else:
        yield from records_of_json(data, path, problems)


def _coco_records(
    data: Mapping[str, Any], path: Path, problems: Problems
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """One record an image of a COCO captions file."""
    images = data.get("images")
    if not isinstance(images, list):
        raise AltogetherError(f"{path} has annotations but no images: give a COCO captions file.")
    names = {
        image["id"]: image["file_name"]
        for image in images
        if isinstance(image, dict)
        and isinstance(image.get("id"), (int, str))
        and isinstance(image.get("file_name"), str)
    }
    captions: dict[Any, list[str]] = {}
    for number, annotation in enumerate(data["annotations"], 1):
        image = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not isinstance(image, (int, str)) or image not in names:
            problems.add(f"annotation {number}: no image_id that the images have")
        elif not isinstance(annotation.get("caption"), str):
            problems.add(f"annotation {number}: no caption")
        else:
            captions.setdefault(image, []).append(annotation["caption"])
    for image, texts in captions.items():
        yield f"image {image}", {"file_name": names[image], "references": texts}


def _texts(value: Any) -> Iterator[str]:
    """The non-blank texts of a text or a list of texts; nothing of any other value."""
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and (clean := _clean(text)):
            yield clean


def _clean(text: str) -> str:
    """One line of bounded length."""
    return clean_text(text[: 4 * MAX_ALT_CHARS])[:MAX_ALT_CHARS]
