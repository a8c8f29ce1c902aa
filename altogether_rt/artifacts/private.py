"""What this user alone could have written: the condition for using a cache without a doubt."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["is_private", "make_private_folder"]

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def is_private(path: Path) -> bool:
    """Whether a file or folder is this user's (or root's) and nobody else may write to it.

    A link is not: what it leads to may be anybody's.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return False
    plain = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    owned = not hasattr(os, "getuid") or status.st_uid in (os.getuid(), 0)
    return plain and owned and not status.st_mode & _WRITABLE_BY_OTHERS


def make_private_folder(path: Path) -> None:
    """Create a folder of a cache, and those above it, writable by this user alone.

    Raises OSError if that fails, PermissionError if others may write to one that was there.
    """
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    if is_private(path):
        return
    os.chmod(path, 0o755)  # a umask may have let the group write; of a stranger's folder this fails
    if not is_private(path):
        raise PermissionError(13, "others may write to it", str(path))
