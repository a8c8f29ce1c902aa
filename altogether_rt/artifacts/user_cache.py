"""The user's cache folder: where it is, on which disk, and locks on what is made there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

try:
    import fcntl
except ImportError:  # Windows: two at once do the work twice, and the first result is kept
    fcntl = None  # type: ignore[assignment]

__all__ = ["existing_folder", "locked", "user_cache"]


def user_cache() -> Path:
    """The folder, which may not be there yet."""
    return platformdirs.user_cache_path("altogether-rt", appauthor=False)


def existing_folder(folder: Path) -> Path:
    """The folder, or the nearest above it that is there: on its disk it is to be made."""
    while not folder.exists():
        folder = folder.parent
    return folder


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file, one process at a time; the system frees it if that is killed.

    Raises BlockingIOError if another holds it and it is not to be waited for, OSError if the file
    cannot be opened; a link is not followed.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)
