"""Opens a shard: fetches and unpacks it if need be, and finds out how to read it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from altogether_rt.data.shards.base import Shard, ShardSource
from altogether_rt.data.shards.expected import expected_samples
from altogether_rt.data.shards.files import FilesSource, ImageFolderSource
from altogether_rt.data.shards.options import ShardOptions
from altogether_rt.data.shards.parquet import ParquetSource
from altogether_rt.data.shards.samples.joined import JoinTable, join_table
from altogether_rt.data.shards.spool import Spool
from altogether_rt.data.shards.storage import storage_errors
from altogether_rt.data.shards.tar import TarSource
from altogether_rt.data.shards.unpack import compression_of
from altogether_rt.errors import AltogetherError

__all__ = ["open_shard"]

_PARQUET_MAGIC: Final = b"PAR1"
_HEAD_BYTES: Final = 512
#: How pages and error messages begin that servers send instead of a file.
_PAGES: Final = (b"<!doctype html", b"<html", b"<?xml", b"<head", b"<error")


@contextmanager
def open_shard(
    shard: Shard, options: ShardOptions | None = None, spool: Spool | None = None
) -> Iterator[ShardSource]:
    """The samples of a shard, while the block runs.

    spool: where shards of an object store, and compressed ones, are kept meanwhile; None: one for
    this shard alone. `source.shard.num_expected` is set if a file beside the shard says it. Raises
    AltogetherError if the shard cannot be read, MissingDependencyError without a package for it.
    """
    options = options or ShardOptions()
    with ExitStack() as stack:
        spool = spool or stack.enter_context(Spool())
        path = stack.enter_context(spool.local(shard))
        if shard.num_expected is None:
            shard = replace(shard, num_expected=expected_samples(shard.url))
        with storage_errors(shard.url):
            head = b"" if path.is_dir() else _head(path)
        if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGES):
            raise AltogetherError(
                f"{shard.url} is a web page and no shard: open it in a browser, which shows what "
                "its server wants, and see whether the address is right."
            )
        joined = None
        if options.join is not None:
            joined = join_table(options.join, shard, spool)
        yield _source(shard, path, head, options, joined, spool, stack)


def _source(
    shard: Shard,
    path: Path,
    head: bytes,
    options: ShardOptions,
    joined: JoinTable | None,
    spool: Spool,
    stack: ExitStack,
) -> ShardSource:
    if path.is_dir():
        if options.layout == "imagefolder":
            return ImageFolderSource(shard, path, options, joined=joined)
        return FilesSource(shard, path, options, joined=joined)
    if head.startswith(_PARQUET_MAGIC) or (options.layout == "parquet" and path.is_file()):
        return ParquetSource(shard, path, options, joined=joined)
    ending = None
    if compression_of(head, shard.url) is not None:
        path, ending = stack.enter_context(spool.unpacked(path, shard.url))
    return TarSource(shard, path, options, unpacking=ending, joined=joined)


def _head(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _HEAD_BYTES)
    finally:
        os.close(descriptor)
