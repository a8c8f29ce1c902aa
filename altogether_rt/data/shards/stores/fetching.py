"""Brings a file of a store to this machine: the file that was listed, or an error."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

from altogether_rt.data.shards.base import Shard
from altogether_rt.data.shards.storage import changed, etag_of, etags_of, file_system, retried
from altogether_rt.data.shards.stores.web import download, is_web, web_info
from altogether_rt.errors import AltogetherError

__all__ = ["fetch", "remote_info"]

#: Bytes asked for at once: what a failed request costs, and what memory holds.
_BLOCK_BYTES: Final = 16 << 20


def remote_info(url: str) -> dict[str, Any]:
    """What a store says of a file or folder now, as fsspec's file systems do.

    Raises FileNotFoundError, PermissionError, and what else the store raises.
    """
    if is_web(url):
        return web_info(url)
    fs, inner = file_system(url)
    return retried(lambda: _fresh_info(fs, inner))


def fetch(shard: Shard, path: Path, room: int) -> None:
    """Write a shard's content to the new file `path`.

    room: bytes that it may have; the size where it is known. Raises AltogetherError if it is not
    the file that was listed, and what the store raises.
    """
    if is_web(shard.url):
        with path.open("wb") as file:
            download(shard.url, file, size=shard.num_bytes, etag=shard.etag, room=room)
        return
    info = remote_info(shard.url)
    size = info.get("size")
    if size is None:
        raise AltogetherError(f"{shard.url} does not say how large it is: fetch it yourself.")
    _check_same(shard, info)
    fs, inner = file_system(shard.url)
    with path.open("wb") as file:
        for start in range(0, size, _BLOCK_BYTES):
            end = min(size, start + _BLOCK_BYTES)
            file.write(retried(partial(_block, fs, inner, start, end)))
    if etag_of(remote_info(shard.url)) not in (etag_of(info), None):
        raise changed(shard.url)


def _check_same(shard: Shard, info: dict[str, Any]) -> None:
    known = list(etags_of(info))
    resized = shard.num_bytes is not None and info.get("size") != shard.num_bytes
    if resized or (known and shard.etag is not None and shard.etag not in known):
        raise changed(shard.url)


def _fresh_info(fs: Any, inner: str) -> dict[str, Any]:
    if type(fs).__name__ == "HfFileSystem":  # one request; else it lists all of the folder
        info: dict[str, Any] = fs.info(inner, refresh=True, expand_info=True)
    else:
        fs.invalidate_cache(fs._parent(inner))
        info = fs.info(inner)
    return info


def _block(fs: Any, inner: str, start: int, end: int) -> bytes:
    data: bytes = fs.cat_file(inner, start=start, end=end)
    if len(data) != end - start:
        raise OSError(f"{len(data):,} of {end - start:,} bytes came")
    return data
