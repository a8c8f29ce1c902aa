"""Files that a command may replace: those of its own kind."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from altogether_rt.errors import AltogetherError

__all__ = ["check_own"]

_HEAD_BYTES: Final = 1 << 16


def check_own(path: Path, kind: re.Pattern[bytes], name: str) -> None:
    """Raise AltogetherError if a file is at `path` that is not of the kind that is to be written.

    kind: matches the beginning of such files. name: of the kind, "a report". An empty file, and a
    link, which is replaced and not followed, may be replaced.
    """
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    with os.fdopen(descriptor, "rb") as file:
        head = file.read(_HEAD_BYTES)
    if head and kind.match(head) is None:
        raise AltogetherError(
            f"{path} is not {name}, and it is not replaced: name another, or remove it."
        )
