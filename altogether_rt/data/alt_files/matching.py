"""Which image a file name in a file of alt-texts means, where that is clear."""

from __future__ import annotations

import itertools
import os
import posixpath
import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import numpy as np

from altogether_rt.data.sniff import has_image_suffix

__all__ = ["ImageNames", "LooseMatches", "Unmatched", "likely_cause", "plain_name"]

_URL: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-]+://")


def plain_name(name: str) -> str:
    """The name with "/" between folders, without `./`, `%20`, `file://` and spaces around it."""
    name = name.strip().removeprefix("file://").replace("\\", "/")
    if _URL.match(name):
        return name
    if "%" in name:
        name = unquote(name)
    return posixpath.normpath(name)


def _composed(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


class _Unique:
    """Images by some form of their names; those that share a form are left out.

    A form is looked for as it is and then composed (NFC): of two images whose names differ in their
    Unicode normal form alone, each is found by its own, and neither by a third.
    """

    def __init__(self, names: Iterable[str], form: Callable[[str], str]) -> None:
        self._found: dict[str, str | None] = {}
        self._found_composed: dict[str, str | None] = {}
        for name in names:
            key = form(name)
            self._found[key] = None if key in self._found else name
            if not key.isascii():
                composed = _composed(key)
                clash = composed in self._found_composed
                self._found_composed[composed] = None if clash else name

    def get(self, form: str) -> str | None:
        if form in self._found:
            return self._found[form]
        return self._found_composed.get(_composed(form))


class ImageNames:
    """The names of a folder's images, as alt-texts may spell them."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = names if isinstance(names, set) else set(names)
        self._not_ascii = _Unique((n for n in self._names if not n.isascii()), lambda name: name)
        self._by_case: _Unique | None = None
        self._by_base: _Unique | None = None
        self._by_stem: _Unique | None = None

    def exact(self, name: str) -> str | None:
        """The image of this name, or the only one whose name is that in another normal form."""
        if name in self._names:
            return name
        return None if name.isascii() else self._not_ascii.get(name)

    def in_other_case(self, name: str) -> str | None:
        """The only image whose name differs in upper and lower case alone."""
        if self._by_case is None:
            self._by_case = _Unique(self._names, _without_case)
        return self._by_case.get(_without_case(name))

    def by_base(self, name: str) -> str | None:
        """The only image in any folder that has this name, which names no folder."""
        if "/" in name:
            return None
        if self._by_base is None:
            self._by_base = _Unique(self._names, posixpath.basename)
        return self._by_base.get(name)

    def by_stem(self, name: str) -> str | None:
        """The only image that has this name before its suffix; the name has no suffix."""
        if has_image_suffix(name):
            return None
        if self._by_stem is None:
            self._by_stem = _Unique(self._names, _without_suffix)
        return self._by_stem.get(name)


def _without_case(name: str) -> str:
    return _composed(name).casefold()


def _without_suffix(name: str) -> str:
    return name[: name.rfind(".")] if has_image_suffix(name) else name


@dataclass
class Unmatched:
    """Names that are no image's, counted without being kept: there may be millions."""

    examples: list[str] = field(default_factory=list)
    prefix: str | None = None  # the folders that all of them begin with, "a/b/", or ""
    _hashes: array[int] = field(default_factory=lambda: array("q"))

    def add(self, name: str) -> None:
        self._hashes.append(hash(name))
        if len(self.examples) < 5 and name not in self.examples:
            self.examples.append(name)
        folder = plain_name(name).rpartition("/")[0] if self.prefix != "" else ""
        if self.prefix is None:
            self.prefix = folder + "/" if folder else ""
        elif self.prefix and not (folder + "/").startswith(self.prefix):
            pairs = zip(self.prefix.split("/")[:-1], folder.split("/"), strict=False)
            common = [mine for mine, theirs in itertools.takewhile(lambda p: p[0] == p[1], pairs)]
            self.prefix = "/".join(common) + "/" if common else ""

    @property
    def count(self) -> int:
        """Number of different names."""
        return len(np.unique(np.frombuffer(self._hashes, np.int64))) if self._hashes else 0


class LooseMatches:
    """Finds the image of a name that is not exactly an image's."""

    def __init__(self, images: ImageNames, unmatched: Unmatched, root: Path, alts: Path) -> None:
        self._images = images
        self._prefix = unmatched.prefix or ""
        self._root_name = root.resolve().name
        self._root = os.path.realpath(root)
        self._bases = (os.path.realpath(alts.parent), os.getcwd())
        self._folders: dict[str, str] = {}  # real paths of folders that were asked for
        self._by_image: dict[str, str | None] = {}  # image -> name; None: several names mean it

    def get(self, name: str) -> str | None:
        """The image, if this name means one; of two names that mean the same one, neither does."""
        found = self._find(name)
        if found is None:
            return None
        if self._by_image.setdefault(found, name) != name:
            self._by_image[found] = None
        return found

    def is_clear(self, image: str) -> bool:
        """After all names were asked for: whether only one means this image."""
        return self._by_image.get(image) is not None

    def _find(self, name: str) -> str | None:
        forms = list(dict.fromkeys(self._forms(plain_name(name))))
        images = self._images
        for find in (images.exact, images.in_other_case, images.by_base, images.by_stem):
            for form in forms:
                found = find(form)
                if found is not None:
                    return found
        return None

    def _forms(self, name: str) -> Iterator[str]:
        """Ways to read a name as relative to the folder, the most certain first."""
        if _URL.match(name) or name.startswith("http"):
            return
        yield name
        for base in self._bases:
            folder, _, last = posixpath.join(base, name).rpartition("/")
            if folder not in self._folders and len(self._folders) < 100_000:
                self._folders[folder] = _real_path(folder)
            real = self._folders.get(folder, folder)
            if (real + "/").startswith(self._root.rstrip("/") + "/"):
                yield posixpath.join(real, last)[len(self._root.rstrip("/")) + 1 :]
        if name.startswith("/"):  # a page's `src`, relative to the root of its site
            yield name.lstrip("/")
        _, found, after = ("/" + name).rpartition(f"/{self._root_name}/")
        if self._root_name and found:
            yield after
        if self._prefix and name.startswith(self._prefix):
            yield name[len(self._prefix) :]


def _real_path(folder: str) -> str:
    """Where a folder is; the folder itself if none can have its name.

    Raises UnicodeEncodeError if names are in another encoding than UTF-8, which lacks a character.
    """
    try:
        return os.path.realpath(folder)
    except UnicodeEncodeError as error:
        if error.encoding != "utf-8":
            raise
    except ValueError:  # a zero byte
        pass
    return folder


def likely_cause(images: list[str], examples: list[str], root: Path) -> str:
    """A sentence's end: why none of the names in a file is an image's."""
    if any(_URL.match(name) for name in examples):
        return "they are addresses, not file names: name the column of file names by --image-key"
    plain = [_composed(plain_name(name)) for name in examples]
    bases = {_composed(posixpath.basename(name)) for name in images}
    folded = {name.casefold() for name in bases}
    stems = {_without_suffix(name) for name in bases}
    if any(posixpath.basename(name) in bases for name in plain):
        return (
            "files of these names are in several folders, or several lines mean one file, so the "
            f"file's names must be relative to {root}, as {images[0]} is"
        )
    if any(posixpath.basename(name).casefold() in folded for name in plain):
        return "several images differ in upper and lower case only: write the names as they are"
    if any(_without_suffix(posixpath.basename(name)) in stems for name in plain):
        return "the endings differ (.jpg, .png): were the images converted"
    return f"the file's names must be relative to {root}, as {images[0]} is"
