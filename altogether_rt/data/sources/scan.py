"""Finds the images of a folder: every one, once, always in the same order.

Names are paths relative to the folder, with "/" between parts. A name that is not UTF-8 keeps its
bytes as lone surrogates (`os.fsdecode`), and so still opens.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from altogether_rt.artifacts.files import is_temporary
from altogether_rt.data.alt_files.beside import is_text_name
from altogether_rt.data.problems import Problems
from altogether_rt.data.sniff import SNIFF_BYTES, has_image_suffix, sniff_format
from altogether_rt.errors import AltogetherError

__all__ = ["FolderScan", "is_litter", "order_key", "scan_folder"]

#: What systems leave in folders: names of files and of folders, in lower case.
_LITTER: Final = frozenset(
    {
        *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store", ".appledouble"),
        *(".thumbnails", ".trashes", ".spotlight-v100", ".fseventsd"),
    }
)

#: Of files that may be meant as the alt-texts, where an image is wanted.
_ALT_SUFFIXES: Final = frozenset({".jsonl", ".json", ".csv", ".tsv", ".txt"})

#: A file without an image's name is looked into, but no decoder starts in less than this.
_MIN_IMAGE_BYTES: Final = 16


@dataclass
class FolderScan:
    """What a folder holds."""

    root: Path
    names: list[str] = field(default_factory=list)  # of images, in input order
    num_other: int = 0  # files that are not images by name or by content
    texts: list[str] = field(default_factory=list)  # other files that may hold alt-texts
    litter: Problems = field(default_factory=Problems)  # files and folders that systems left
    problems: Problems = field(default_factory=Problems)  # folders left out, and why


def is_litter(name: str) -> bool:
    """Whether a file or folder is one that systems make for themselves: `._photo.jpg`, `@eaDir`.

    So is a temporary of ours.
    """
    return name.startswith("._") or name.lower() in _LITTER or is_temporary(name)


def order_key(name: str) -> str:
    """Sorts names as `scan_folder` does: folder by folder, each by its entries' names."""
    return name.replace("/", "\0")


def scan_folder(path: str | Path, *, recursive: bool = True) -> FolderScan:
    """The images in a folder, or the one image that `path` is.

    A file counts if its name ends like an image's, in any case, or, failing that, if its first
    bytes are an image's. Nothing but regular files is ever opened. Links to folders are followed
    unless they lead to where the walk goes anyway; folders whose name begins with a dot are not
    entered. Raises AltogetherError if there is no such folder, or the one file is not an image.
    """
    path = Path(path)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AltogetherError(f"{path} cannot be read: {reason}.") from error
    if not stat.S_ISDIR(mode):
        if stat.S_ISREG(mode) and not _is_candidate(path.name, path):
            hint = " (alt-texts are given by --alt)" if path.suffix in _ALT_SUFFIXES else ""
            raise AltogetherError(
                f"{path} is not an image{hint}: name an image, or a folder of images."
            )
        return FolderScan(path.parent, [path.name])
    scan = FolderScan(path)
    for name, entry in _walk(scan, recursive):
        if _is_candidate(entry.name, entry):
            scan.names.append(name)
        else:
            scan.num_other += 1
            if is_text_name(name):
                scan.texts.append(name)
    return scan


def _walk(scan: FolderScan, recursive: bool) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything but folders, depth first, in order of names."""
    trees = [os.path.realpath(scan.root)]  # what the walk covers
    stack = [iter(_list(scan, ""))]
    prefixes = [""]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            prefixes.pop()
            continue
        name = prefixes[-1] + entry.name
        if is_litter(entry.name):
            scan.litter.add(name)
            continue
        if not _is_folder(entry):
            yield name, entry
        elif recursive and not entry.name.startswith("."):
            if entry.is_symlink() and not _is_new_tree(scan, name, trees):
                continue
            stack.append(iter(_list(scan, name)))
            prefixes.append(name + "/")


def _list(scan: FolderScan, name: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(scan.root / name if name else scan.root) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        if not name:
            raise AltogetherError(f"{scan.root} cannot be read: {error.strerror}.") from error
        scan.problems.add(f"folder {name} cannot be read: {error.strerror}")
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_new_tree(scan: FolderScan, name: str, trees: list[str]) -> bool:
    """Whether a link leads out of everything walked so far; if so, that is walked now as well."""
    target = os.path.realpath(scan.root / name)
    for tree in trees:
        if os.path.commonpath((tree, target)) in (tree, target):
            scan.problems.add(f"{name} is a link to a folder that is walked anyway, or around it")
            return False
    trees.append(target)
    return True


def _is_candidate(name: str, entry: os.DirEntry[str] | Path) -> bool:
    if has_image_suffix(name):
        return True
    try:
        status = entry.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size < _MIN_IMAGE_BYTES:
            return False
        descriptor = os.open(entry, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            return sniff_format(file.read(SNIFF_BYTES)) is not None
    except OSError:
        return False
