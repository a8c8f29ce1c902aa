"""Captions as the alt-texts of their images, in XMP: in copies of them, or in place."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from altogether_rt.data.alts import alt_texts
from altogether_rt.data.file_hash import file_hash
from altogether_rt.data.images.limits import ImageLimits
from altogether_rt.data.problems import Problems
from altogether_rt.data.rows import Row
from altogether_rt.data.sinks.sidecars import OF_ONE_FILE
from altogether_rt.data.xmp.files import read_alt_texts, write_alt_text
from altogether_rt.errors import AltogetherError, ImageError

__all__ = ["IN_PLACE", "AltWriter"]

#: Instead of a folder: write into the images themselves.
IN_PLACE: Final = "in-place"


@dataclass
class AltWriter:
    """Writes captions into images. An image that has changed since, or has another alt-text by
    somebody's hand, is left alone, and so is anything but a regular file in the folder.
    """

    root: Path
    target: str  # a folder for copies, or IN_PLACE
    limits: ImageLimits = field(default_factory=ImageLimits)
    num_written: int = 0
    num_unchanged: int = 0  # images that had their captions already
    kept: Problems = field(default_factory=Problems)  # files that hold something else
    failed: Problems = field(default_factory=Problems)  # files that cannot be written, and why

    def __post_init__(self) -> None:
        """Raises AltogetherError if copies would lie among the images, or IN_PLACE is misspelt."""
        plain = self.target.strip("-_ ").lower().replace("_", "-").replace(" ", "-")
        if self.target != IN_PLACE and plain in (IN_PLACE, IN_PLACE.replace("-", "")):
            raise AltogetherError(
                f"--write-alt {self.target}: write {IN_PLACE} for the images themselves, or "
                f"./{self.target} for a folder of that name."
            )
        self._folder = self.root if self.target == IN_PLACE else Path(self.target)
        self._real_folder = os.path.realpath(self._folder)
        real_root = os.path.realpath(self.root)
        if self.target != IN_PLACE and _contains(real_root, self._real_folder):
            raise AltogetherError(
                f"--write-alt {self.target} lies in {self.root}, whose images it copies: name "
                f"another folder, or {IN_PLACE} to write into the images themselves."
            )

    def write(self, row: Row) -> None:
        """Write a row's caption. Raises OSError if the disk is full, or broken."""
        name = row["file_name"]
        try:
            self._write(name, row)
        except (ValueError, ImageError) as error:
            self.failed.add(f"{name}: {str(error).removesuffix('.')}")
        except OSError as error:
            if error.errno not in OF_ONE_FILE:
                raise
            self.failed.add(f"{name}: {error.strerror}")

    def _write(self, name: str, row: Row) -> None:
        source, target = self.root / name, self._folder / name
        if not _contains(self._real_folder, os.path.realpath(target.parent)):
            raise ValueError("a link leads out of the folder")
        if self.target != IN_PLACE:
            target.parent.mkdir(parents=True, exist_ok=True)
        is_there = os.path.lexists(target)
        if is_there and not stat.S_ISREG(os.lstat(target).st_mode):
            raise ValueError(f"{target} is not a regular file")
        if self.target == IN_PLACE and self._has_other_alt(source, row):
            self.kept.add(name)
            return
        now = file_hash(source, self.limits)
        if row.get("image_hash") not in (None, now):
            raise ValueError("the image has changed since it was captioned")
        if is_there and self.target != IN_PLACE and file_hash(target, self.limits) != now:
            self.kept.add(str(target))
            return
        if write_alt_text(source, target, row["caption"], self.limits):
            self.num_written += 1
        else:
            self.num_unchanged += 1

    def _has_other_alt(self, source: Path, row: Row) -> bool:
        """Whether somebody gave the image an alt-text that the caption was not made from."""
        texts = read_alt_texts(source, self.limits)
        if texts is None or not texts.alt or texts.is_ours:
            return False
        given = alt_texts(row, "alt") or ()
        return texts.alt not in {" ".join(text.split()) for text in given}


def _contains(folder: str, path: str) -> bool:
    return os.path.commonpath((folder, path)) == folder
