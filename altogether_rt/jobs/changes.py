"""What has changed since earlier runs wrote their rows: the images, or their alt-texts.

A row carries the hash of its image's file. Names alone would take a replaced image, or another
folder with the same names, for one that is captioned already.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from altogether_rt.data.file_hash import file_hash
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.problems import Problems
from altogether_rt.data.rows import Row
from altogether_rt.data.sources.base import Source
from altogether_rt.errors import AltogetherError

__all__ = ["Changes", "find_changes"]

#: Files are mostly read from the disk, and hashing them leaves other threads free.
_NUM_THREADS: Final = 4

#: Rows whose files are hashed before the next ones are drawn.
_ROWS_AT_ONCE: Final = 256

#: Rows of which all must have changed before the output is taken for another one.
_MIN_REFUSED: Final = 2


@dataclass
class Changes:
    """Names whose rows do not fit the samples of today."""

    images: dict[str, None] = field(default_factory=dict)  # another file of the same name
    alts: dict[str, None] = field(default_factory=dict)  # other alt-texts
    num_hashes: int = 0  # rows that were compared with their file
    num_alts: int = 0  # rows whose samples have alt-texts now
    num_unchecked: int = 0  # captions that do not say of which file they are

    def __contains__(self, name: str) -> bool:
        return name in self.images or name in self.alts

    def problems(self, names: Iterable[str]) -> Problems:
        """`images` or `alts` as the summary shows them."""
        found = Problems()
        for name in names:
            found.add(name)
        return found

    def refuse_if_all(self, out: Path) -> None:
        """Raise AltogetherError if the rows are those of another folder with the same names, or if
        alt-texts were given then and none are now.

        A few that changed are counted, and their captions kept.
        """
        other_images = len(self.images) == self.num_hashes >= _MIN_REFUSED
        no_alts = bool(self.alts) and self.num_alts == 0
        if other_images:
            raise AltogetherError(
                f"{out} holds captions of other images ({next(iter(self.images))} for one), which "
                "--update makes again: choose another --out, or start afresh with --overwrite."
            )
        if no_alts:
            raise AltogetherError(
                f"{out} holds captions written from alt-texts (that of {next(iter(self.alts))} for "
                "one), and there are none now: give them again, or choose another --out (--update "
                "captions those images without alt-texts)."
            )


def find_changes(
    rows: Iterable[Row],
    source: Source,
    limits: ImageLimits | None,
    on_checked: Callable[[int], None] = lambda num_rows: None,
) -> Changes:
    """Compare rows of earlier runs with the samples of `source` that have the same names.

    Of several rows of a name the last one counts. limits: of the files that are read; None: do not
    look at images. on_checked: told how many rows were compared, now and then. A file that cannot
    be read now keeps its row.
    """
    changes = Changes()
    root = source.root if limits is not None else None
    num_checked = 0
    listed = (row for row in rows if source.has_sample(row["file_name"]))

    def hash_now(row: Row) -> str:
        known = isinstance(row.get("image_hash"), str)
        return file_hash(root / row["file_name"], limits) if root is not None and known else ""

    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="hash") as pool:
        while batch := list(itertools.islice(listed, _ROWS_AT_ONCE)):
            for row, now in zip(batch, pool.map(hash_now, batch), strict=True):
                _compare_image(changes, row, now, checks=root is not None)
                _compare_alts(changes, row, source)
            num_checked += len(batch)
            on_checked(num_checked)
    return changes


def _compare_image(changes: Changes, row: Row, now: str, *, checks: bool) -> None:
    name = row["file_name"]
    changes.images.pop(name, None)
    if now:
        changes.num_hashes += 1
        if now != row["image_hash"]:
            changes.images[name] = None
    elif checks and "caption" in row:
        changes.num_unchecked += 1


def _compare_alts(changes: Changes, row: Row, source: Source) -> None:
    name = row["file_name"]
    changes.alts.pop(name, None)
    alts = source.alts_of(name)
    if alts is None:
        return
    changes.num_alts += bool(alts.texts)
    if row.get("alt") != alts.json:
        changes.alts[name] = None
