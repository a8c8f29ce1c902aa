"""Shards of an object store, fetched to a local folder of bounded size, the next ones ahead."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from altogether_rt.artifacts.files import FULL_DISK
from altogether_rt.data.shards.base import Ending, Shard
from altogether_rt.data.shards.storage import local_path, storage_errors
from altogether_rt.data.shards.stores.fetching import fetch, remote_info
from altogether_rt.data.shards.stores.web import is_web
from altogether_rt.data.shards.unpack import unpack
from altogether_rt.errors import AltogetherError

__all__ = ["SPOOL_BYTES", "Spool"]

SPOOL_BYTES: Final = 32 << 30
_PREFIX: Final = "altogether-spool-"
_NEW_S: Final = 60.0


class Spool:
    """A folder of files that are removed after use; a context manager.

    At most `max_bytes` are in it at any time. Folders that killed processes left are removed.
    """

    def __init__(self, folder: str | Path | None = None, max_bytes: int = SPOOL_BYTES) -> None:
        """folder: where the spool's own folder is made; None: the system's for temporary files."""
        self._parent = Path(folder or tempfile.gettempdir())
        self._max_bytes = max_bytes
        self._folder: Path | None = None
        self._lock_file: BinaryIO | None = None
        self._changed = threading.Condition()
        self._num_bytes = 0  # reserved
        self._next_number = 0
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: dict[str, Future[tuple[Path, int]]] = {}
        self._closed = False

    def __reduce__(self) -> tuple[type[Spool], tuple[Path, int]]:
        """Sent to another process, it is an empty one in the same folder."""
        return Spool, (self._parent, self._max_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def prefetch(self, shard: Shard) -> None:
        """Begin to fetch a shard that will be wanted, if there is room for it."""
        if local_path(shard.url) is not None or shard.url in self._ahead or self._closed:
            return
        size = shard.num_bytes
        if size is None or not self._reserve(size, wait=False):
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "spool")
        self._ahead[shard.url] = self._pool.submit(self._fetch_reserved, shard, size)

    @contextmanager
    def local(self, shard: Shard) -> Iterator[Path]:
        """The shard as a local file, which is removed when the block ends unless it always was.

        Raises AltogetherError if it cannot be read, changed since it was listed, or is too large.
        """
        path = local_path(shard.url)
        if path is not None:
            yield Path(path)
            return
        ahead = self._ahead.pop(shard.url, None)
        fetched, reserved = ahead.result() if ahead is not None else self._fetch(shard)
        try:
            yield fetched
        finally:
            fetched.unlink(missing_ok=True)
            self._release(reserved)

    @contextmanager
    def unpacked(self, path: Path, name: str) -> Iterator[tuple[Path, Ending | None]]:
        """The file that `path` unpacks to, removed when the block ends, and how its data ended.

        name: for messages. Raises AltogetherError if it cannot be read or is too large.
        """
        with self._changed:
            room = self._max_bytes - self._num_bytes
        self._reserve(room, wait=True)
        target = self._new_path()
        try:
            with storage_errors(name), _naming_spool(target), target.open("wb") as file:
                ending = unpack(path, file, room, name)
                surplus = room - file.tell()
            room -= surplus
            self._release(surplus)
            yield target, ending
        finally:
            target.unlink(missing_ok=True)
            self._release(room)

    def close(self) -> None:
        """Remove the folder and all that is in it."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock_file is not None:
            self._lock_file.close()

    # -- room

    def _reserve(self, size: int, *, wait: bool) -> bool:
        with self._changed:
            while self._num_bytes + size > self._max_bytes:
                if not wait:
                    return False
                self._changed.wait()
            self._num_bytes += size
            return True

    def _release(self, size: int) -> None:
        with self._changed:
            self._num_bytes -= size
            self._changed.notify_all()

    def _new_path(self) -> Path:
        with self._changed:
            if self._folder is None:
                self._folder, self._lock_file = _new_folder(self._parent)
            self._next_number += 1
            return self._folder / f"{self._next_number:06}"

    # -- fetching

    def _fetch(self, shard: Shard) -> tuple[Path, int]:
        size = shard.num_bytes
        if size is None:
            with storage_errors(shard.url):
                size = remote_info(shard.url).get("size")
        if size is None and is_web(shard.url):
            return self._fetch_unsized(shard)
        if size is None:
            raise AltogetherError(f"{shard.url} does not say how large it is: fetch it yourself.")
        if size > self._max_bytes:
            raise AltogetherError(
                f"{shard.url} has {size:,} bytes, and the spool holds {self._max_bytes:,}: allow "
                "more with --spool-bytes."
            )
        self._drop_ahead_for(size)
        self._reserve(size, wait=True)
        return self._fetch_reserved(replace(shard, num_bytes=size), size)

    def _fetch_unsized(self, shard: Shard) -> tuple[Path, int]:
        """A file whose server does not say how large it is: all the room is held meanwhile."""
        with self._changed:
            room = self._max_bytes - self._num_bytes
        self._reserve(room, wait=True)
        path, room = self._fetch_reserved(shard, room)
        size = path.stat().st_size
        self._release(room - size)
        return path, size

    def _drop_ahead_for(self, size: int) -> None:
        """Give up shards that were fetched ahead and are not wanted yet, if they are in the way."""
        while self._ahead and self._num_bytes + size > self._max_bytes:
            _, ahead = self._ahead.popitem()
            with suppress(AltogetherError):
                path, reserved = ahead.result()
                path.unlink(missing_ok=True)
                self._release(reserved)

    def _fetch_reserved(self, shard: Shard, size: int) -> tuple[Path, int]:
        try:
            path = self._new_path()
            with storage_errors(shard.url), _naming_spool(path):
                fetch(shard, path, size)
        except BaseException:
            with suppress(UnboundLocalError):
                path.unlink(missing_ok=True)
            self._release(size)
            raise
        return path, size


@contextmanager
def _naming_spool(path: Path) -> Iterator[None]:
    """The system's error does not say which disk is full: it is not the shard that is at fault."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise AltogetherError(
            f"the spool in {path.parent.parent} has no room ({error.strerror}): make some, or name "
            "a folder on another disk with --spool, then give the same command again."
        ) from error


def _new_folder(parent: Path) -> tuple[Path, BinaryIO]:
    """A folder that this process holds the lock of; removes those whose lock nobody holds."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for old in parent.glob(_PREFIX + "*"):
            _remove_abandoned(old)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock_file = (folder / "lock").open("wb")
    except OSError as error:
        raise AltogetherError(
            f"the spool cannot be made in {parent}: {error.strerror}; name another folder with "
            "--spool."
        ) from error
    fcntl.flock(lock_file, fcntl.LOCK_EX)
    return folder, lock_file


def _remove_abandoned(folder: Path) -> None:
    with suppress(OSError):
        status = folder.lstat()
        is_mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
        if not is_mine or time.time() - status.st_mtime < _NEW_S:  # its lock may not be held yet
            return
        with (folder / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
