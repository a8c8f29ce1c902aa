"""Whether files are still those that were checked, between the check and their use."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from altogether_rt.errors import AltogetherError

__all__ = ["FileStamps"]

Stamp = tuple[int, int, int, int]


@dataclass(frozen=True)
class FileStamps:
    """What the file system says of some files; it differs once one is written or replaced.

    Taken before files are hashed and checked after they were loaded, it shows that what was loaded
    is what was hashed, without a second reading. The time of the last change is among them, which
    no program can set.
    """

    stamps: Mapping[Path, Stamp]

    @classmethod
    def take(cls, paths: Iterable[Path]) -> Self:
        """The stamps of these files now; of one that is not there, nothing."""
        return cls({path: stamp for path in paths if (stamp := _stamp(path)) is not None})

    def check(self) -> None:
        """Raises AltogetherError if a file has been changed, replaced or removed since."""
        for path, stamp in self.stamps.items():
            if _stamp(path) != stamp:
                raise AltogetherError(
                    f"{path} was changed while it was being opened: start again when nothing "
                    "writes to it."
                )


def _stamp(path: Path) -> Stamp | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
