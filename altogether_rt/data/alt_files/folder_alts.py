"""The alt-texts of a folder's images, out of a file that may name many more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from altogether_rt.data.alt_files.columns import ALT_KEYS, NAME_KEYS, Columns
from altogether_rt.data.alt_files.matching import (
    ImageNames,
    LooseMatches,
    Unmatched,
    likely_cause,
)
from altogether_rt.data.alts import AltTable, iter_alts
from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError

__all__ = ["FolderAlts", "read_folder_alts"]

#: Called with the number of records read so far, now and then.
OnRecords = Callable[[int], None]
_RECORDS_BETWEEN_CALLS: Final = 1000


@dataclass
class FolderAlts:
    """The alt-texts of a folder's images, by their names in the folder."""

    table: AltTable = field(default_factory=AltTable)
    without_image: Problems = field(default_factory=Problems)  # names of no image
    matched_loosely: Problems = field(default_factory=Problems)  # names spelled otherwise


def read_folder_alts(
    path: Path,
    root: Path,
    names: list[str],
    columns: Columns | None = None,
    on_records: OnRecords = lambda count: None,
) -> FolderAlts:
    """The alt-texts in `path` for the images `names` of the folder `root`.

    A name that is not exactly an image's is matched where only one image can be meant (relative to
    another folder, `\\`, `%20`, upper and lower case); the images have then no other alt-texts.
    Memory grows with the images, not with the file. Raises AltogetherError if the file cannot be
    read, no record can be used, or no name is an image's.
    """
    found = FolderAlts()
    table = found.table
    images = ImageNames(names)
    unmatched = Unmatched()
    has_text = False
    for name, texts in iter_alts(path, table.problems, root, columns, table.notes):
        table.num_used += 1
        if table.num_used % _RECORDS_BETWEEN_CALLS == 0:
            on_records(table.num_used)
        has_text = has_text or any(text.strip() for text in texts)
        image = images.exact(name)
        if image is None:
            unmatched.add(name)
        else:
            table.add(image, texts)
    if not has_text:
        raise AltogetherError(_nothing_usable(path, table, columns))
    num_missing = unmatched.count
    loose: set[str] = set()  # of the names that are matched now
    if num_missing and len(table.by_name) < len(names):
        matches = LooseMatches(images, unmatched, root, path)
        loose = _match_loosely(found, path, root, matches, images, columns, on_records)
        num_missing -= len(loose)
    if num_missing:
        examples = [name for name in unmatched.examples if name not in loose]
        found.without_image = Problems(num_missing, examples or unmatched.examples[:1])
    if not table.by_name:
        raise AltogetherError(
            f"none of the {num_missing:,} names in {path} is that of an image in {root} "
            f"(there: {', '.join(unmatched.examples[:2])}; here: {', '.join(names[:2])}): "
            f"{likely_cause(names, unmatched.examples, root)}."
        )
    return found


def _match_loosely(
    found: FolderAlts,
    path: Path,
    root: Path,
    matches: LooseMatches,
    images: ImageNames,
    columns: Columns | None,
    on_records: OnRecords,
) -> set[str]:
    """Read the file again for the names that are no image's exactly; returns those matched."""
    taken = set(found.table.by_name)
    texts_of: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    for count, (name, texts) in enumerate(iter_alts(path, Problems(), root, columns), 1):
        if count % _RECORDS_BETWEEN_CALLS == 0:
            on_records(count)
        if images.exact(name) is not None:
            continue
        image = matches.get(name)
        if image is not None and image not in taken:
            texts_of.setdefault(image, []).extend(texts)
            names[image] = name
    for image, collected in texts_of.items():
        if matches.is_clear(image):
            found.table.add(image, collected)
            found.matched_loosely.add(f"{names[image]} is {image}")
    return {name for image, name in names.items() if matches.is_clear(image)}


def _nothing_usable(path: Path, table: AltTable, columns: Columns | None) -> str:
    """Why a file gave no alt-text: what it has, what is wanted."""
    columns = columns or Columns()
    if table.num_used and not table.problems:
        return f"no record of {path} has an alt-text: all are empty."
    if table.problems and all(e.endswith(": not UTF-8") for e in table.problems.examples):
        return (
            f"no line of {path} can be used ({table.problems}): it is in another encoding, so save "
            "it as UTF-8."
        )
    known = ", ".join(list(table.notes.columns)[:12]) or "none"
    problems = f" ({table.problems})" if table.problems else ""
    return (
        f"no line of {path} can be used{problems}: columns found: {known}; wanted: a file name in "
        f"{columns.name or ', '.join(NAME_KEYS[:5])}, … and a text in "
        f"{columns.text or ', '.join(ALT_KEYS[:7])}, …: name yours by --image-key and --alt-key."
    )
