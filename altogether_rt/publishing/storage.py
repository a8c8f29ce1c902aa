"""What an export needs of folders and stores beyond reading and writing whole files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from altogether_rt.data.shards.base import Shard
from altogether_rt.data.shards.spool import Spool
from altogether_rt.data.shards.storage import (
    etag_of,
    file_system,
    local_path,
    retried,
    storage_errors,
)
from altogether_rt.data.sinks.shards.open_store import open_store
from altogether_rt.data.sinks.shards.store import OutputStore

__all__ = ["divided", "joined", "on_this_machine", "stamp_of"]


def joined(store: OutputStore, name: str) -> str:
    """The path or URL of a file in a store."""
    return f"{store.url.rstrip('/') or '/'}/{name}"


def divided(where: str) -> tuple[OutputStore, str]:
    """The store that a path or URL of a file is in, and the file's name there."""
    folder, slash, name = where.rpartition("/")
    return open_store(folder or slash or "."), name


def stamp_of(where: str) -> str | None:
    """What changes when a file's content changes; None if there is no such file.

    Raises AltogetherError if that cannot be found out.
    """
    path = local_path(where)
    if path is not None:
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return f"{status.st_size}-{status.st_mtime_ns}"
    filesystem, inner = file_system(where)
    with storage_errors(where):
        try:
            filesystem.invalidate_cache(filesystem._parent(inner))
            info = retried(partial(filesystem.info, inner))
        except FileNotFoundError:
            return None
    return f"{info.get('size')}-{etag_of(info)}"


@contextmanager
def on_this_machine(where: str, spool: Spool) -> Iterator[Path]:
    """A file on the disk: itself, or a copy for the length of the block."""
    with spool.local(Shard(where, where)) as path:
        yield path
