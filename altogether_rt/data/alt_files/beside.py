"""Alt-texts beside images: `photo.txt`, `photo.json`, or a `metadata.jsonl` in each folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from altogether_rt.data.alt_files.columns import ALT_KEYS, Columns
from altogether_rt.data.alt_files.folder_alts import FolderAlts
from altogether_rt.data.alt_files.json_records import read_json
from altogether_rt.data.alt_files.matching import ImageNames
from altogether_rt.data.alts import alt_texts, iter_alts
from altogether_rt.data.sniff import has_image_suffix
from altogether_rt.errors import AltogetherError

__all__ = ["METADATA_NAMES", "beside_hints", "is_text_name", "read_alts_beside"]

#: Files of alt-texts that each folder of images may have, as Hugging Face's ImageFolder reads them.
METADATA_NAMES: Final = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_SUFFIXES: Final = (".txt", ".json", ".caption")
#: More than this is no alt-text.
_MAX_BYTES: Final = 1 << 20


def is_text_name(name: str) -> bool:
    """Whether a file may hold alt-texts of images beside it, by its name."""
    return name.endswith(_SUFFIXES) or name.rpartition("/")[2] in METADATA_NAMES


def beside_hints(names: list[str], texts: Iterable[str]) -> list[tuple[str, int]]:
    """What `--alt-beside` could be given here, and how many files it would read.

    names: of the images. texts: of all other files for which `is_text_name` is true.
    """
    others = set(texts)
    stems = [_stem(name) for name in names]
    counts = {suffix: sum(stem + suffix in others for stem in stems) for suffix in _SUFFIXES}
    for metadata in METADATA_NAMES:
        counts[metadata] = sum(name.endswith("/" + metadata) for name in others)
    return [(kind, count) for kind, count in counts.items() if count]


def read_alts_beside(
    kind: str, root: Path, names: list[str], texts: Iterable[str], columns: Columns | None = None
) -> FolderAlts:
    """The alt-texts beside the images `names` of the folder `root`.

    kind: a suffix (".txt": one alt-text, ".json": a record), or the name of a file that each folder
    has ("metadata.jsonl"). Raises AltogetherError if no image has any.
    """
    found = FolderAlts()
    if kind.startswith("."):
        for name in names:
            path = root / (_stem(name) + kind)
            if path.is_file():
                _add_sidecar(found, name, path, columns or Columns())
    else:
        images = ImageNames(names)
        for other in sorted(texts):
            folder, _, last = other.rpartition("/")
            if last == kind:
                _add_metadata(found, root / other, folder + "/" if folder else "", images, columns)
    if not any(alts.texts for alts in found.table.by_name.values()):
        problems = f" ({found.table.problems})" if found.table.problems else ""
        raise AltogetherError(
            f"no image in {root} has an alt-text in {kind} beside it{problems}: "
            "--alt-beside takes .txt, .json or the name of a file such as metadata.jsonl."
        )
    return found


def _stem(name: str) -> str:
    return name[: name.rfind(".")] if has_image_suffix(name) else name


def _add_sidecar(found: FolderAlts, name: str, path: Path, columns: Columns) -> None:
    table = found.table
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("is no alt-text: larger than a megabyte")
        if path.suffix.lower() == ".json":
            with path.open("rb") as file:
                record = read_json(path, file)
            known = isinstance(record, dict)
            texts = alt_texts(record, columns.text, ALT_KEYS) if known else None
            if texts is None:
                raise ValueError("has no alt-text")
        else:
            texts = (_text(path.read_bytes()),)
    except (OSError, ValueError, AltogetherError) as error:
        table.problems.add(f"{path.name}: {error}")
        return
    table.add(name, texts)
    table.num_used += 1


def _text(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252")  # raises ValueError for bytes that it does not have


def _add_metadata(
    found: FolderAlts, path: Path, prefix: str, images: ImageNames, columns: Columns | None
) -> None:
    table = found.table
    unmatched: dict[str, None] = {}
    try:
        for name, texts in iter_alts(path, table.problems, path.parent, columns, table.notes):
            table.num_used += 1
            image = images.exact(prefix + name)
            if image is not None:
                table.add(image, texts)
            else:
                unmatched[prefix + name] = None
    except AltogetherError as error:
        table.problems.add(str(error))
    for name in unmatched:
        found.without_image.add(name)
