"""A folder of outputs on an object store: what is put there appears whole, by one request."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from altogether_rt.data.shards.storage import file_system, is_refusal
from altogether_rt.data.sinks.shards.store import OutputStore
from altogether_rt.errors import AltogetherError, reason

__all__ = ["ObjectStore"]

#: Times that a request is tried, and seconds before the second time; each wait doubles the last.
_MAX_TRIES = 6
_FIRST_WAIT_S = 0.2

#: Why captions cannot be written to some stores that can be read.
_UNFIT = {
    "hf": "each of its files is a commit of its own, and two processes cannot agree there",
    "http": "web servers take no files",
    "https": "web servers take no files",
}

#: Files that are read at once.
_READ_TOGETHER = 256

Result = TypeVar("Result")


class ObjectStore(OutputStore):
    """A prefix of a bucket, through fsspec."""

    def __init__(self, url: str) -> None:
        """Raises AltogetherError for a URL that no installed package opens.

        MissingDependencyError names the extra that brings the package.
        """
        self.url = url.rstrip("/")
        self._protocol = self.url.partition("://")[0].lower()
        self._fs, root = file_system(self.url)
        self._root = root.rstrip("/")

    def read(self, name: str) -> bytes | None:
        try:
            return self._again(lambda: bytes(self._fs.cat_file(self._path(name))))
        except FileNotFoundError:
            return None

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        left = iter(names)
        while together := list(islice(left, _READ_TOGETHER)):
            paths = {self._path(name): name for name in together}
            found = self._fs.cat(list(paths), on_error="return")
            for path, name in paths.items():
                data = found.get(path)
                yield name, bytes(data) if isinstance(data, bytes) else self.read(name)

    def write(self, name: str, data: bytes) -> None:
        self._again(lambda: self._fs.pipe_file(self._path(name), data), writing=True)

    def create(self, name: str, data: bytes) -> bool:
        tried = False

        def create() -> bool:
            nonlocal tried
            again, tried = tried, True
            try:
                self._fs.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                # Made by another process, or by a try of ours whose answer was lost.
                return again and self.read(name) == data
            return True

        return self._again(create, writing=True)

    @contextmanager
    def new_file(self, name: str) -> Iterator[BinaryIO]:
        # fsspec uploads what was written when a block is left by an exception: not used here.
        with tempfile.TemporaryDirectory(prefix="altogether-rt-") as folder:
            path = Path(folder) / "new"
            with path.open("w+b") as file:
                yield file
            self._again(lambda: self._fs.put_file(str(path), self._path(name)), writing=True)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        with tempfile.TemporaryFile(prefix="altogether-rt-") as copy:
            self._again(lambda: self._copy(name, copy))
            copy.seek(0)
            yield copy

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                self._again(partial(self._fs.rm_file, self._path(name)))

    def exists(self, name: str) -> bool:
        path = self._path(name)

        def look() -> bool:
            self._fs.invalidate_cache(self._fs._parent(path))
            return bool(self._fs.info(path)["type"] == "file")

        try:
            return self._again(look)
        except FileNotFoundError:
            return False

    def files(self, folder: str) -> list[str]:
        path = self._path(folder)
        try:
            found = self._again(lambda: self._fs.ls(path, detail=True, refresh=True))
        except FileNotFoundError:
            return []
        return sorted(self._name(entry) for entry in found if entry["type"] == "file")

    def all_files(self) -> Iterator[str]:
        self._fs.invalidate_cache()
        try:
            found = self._again(lambda: self._fs.find(self._root, detail=True))
        except FileNotFoundError:
            return
        for entry in found.values():
            yield self._name(entry)

    def _copy(self, name: str, copy: Any) -> None:
        copy.seek(0)
        copy.truncate()
        with self._fs.open(self._path(name), "rb") as file:
            shutil.copyfileobj(file, copy, 1 << 20)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _name(self, entry: dict[str, Any]) -> str:
        return str(entry["name"])[len(self._root) + 1 :]

    def _again(self, request: Callable[[], Result], *, writing: bool = False) -> Result:
        """The result of a request, which is tried again while the store fails.

        writing: a file is made, so that what is missing is the bucket. Raises AltogetherError for
        a store that captions cannot be written to.
        """
        if writing and (why := _UNFIT.get(self._protocol)) is not None:
            raise AltogetherError(
                f"captions cannot be written to {self.url}: {why}; name a folder, or a URL of "
                "s3:// or gs://."
            )
        for number in range(1, _MAX_TRIES + 1):
            try:
                return request()
            except FileExistsError:
                raise
            except FileNotFoundError as error:
                if writing:
                    raise OSError(f"there is no bucket for {self.url}") from error
                raise
            except Exception as error:  # what clients raise has no class in common
                if is_refusal(error):
                    raise PermissionError(
                        f"{self.url} refuses this ({reason(error)}); look at the credentials, then "
                        "give the same command to go on"
                    ) from error
                if number == _MAX_TRIES:
                    raise OSError(f"{self.url} cannot be used: {reason(error)}") from error
            time.sleep(_FIRST_WAIT_S * 2 ** (number - 1))
        raise AssertionError
