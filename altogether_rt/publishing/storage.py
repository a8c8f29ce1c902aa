"""Folders of shards, on a disk or an object store; files appear in them whole or not at all."""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

from altogether_rt.artifacts.files import NewFile, write_whole
from altogether_rt.errors import AltogetherError, MissingDependencyError

__all__ = ["LocalStorage", "RemoteStorage", "Storage", "open_storage"]

#: Maximum bytes of a file that is read into memory: the small JSON files beside shards.
_MAX_SMALL_BYTES: Final = 16 * 1024 * 1024


class Storage(ABC):
    """A folder. Names of files are relative to it and have `/` between their parts."""

    def __init__(self, where: str) -> None:
        self.where = where

    @abstractmethod
    def names(self) -> list[str]:
        """Every file in it and in its subfolders, sorted; hidden ones are left out."""

    @abstractmethod
    def stamp(self, name: str) -> str | None:
        """What changes when the file's content changes; None if there is no such file."""

    @abstractmethod
    def local(self, name: str) -> AbstractContextManager[Path]:
        """The file on this machine's disk, for the length of the block."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """A small file's content; None if there is no such file."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Make `data` the content of a file."""

    @abstractmethod
    def new(self, name: str) -> AbstractContextManager[Path]:
        """A path on this machine's disk; what is written there becomes the file when the block
        ends, and is removed if it raises."""


class LocalStorage(Storage):
    """A folder on this machine."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self._folder = folder

    def names(self) -> list[str]:
        found = []
        for folder, subfolders, files in os.walk(self._folder):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            here = Path(folder).relative_to(self._folder)
            found += [(here / name).as_posix() for name in files if not name.startswith(".")]
        return sorted(found)

    def stamp(self, name: str) -> str | None:
        try:
            status = (self._folder / name).stat()
        except OSError:
            return None
        return f"{status.st_size}-{status.st_mtime_ns}"

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        yield self._folder / name

    def read(self, name: str) -> bytes | None:
        try:
            with (self._folder / name).open("rb") as file:
                return file.read(_MAX_SMALL_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AltogetherError(f"{self.where}/{name}: {error.strerror}.") from error

    def write(self, name: str, data: bytes) -> None:
        target = self._folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, data)
        except OSError as error:
            raise AltogetherError(f"{target} cannot be written: {error.strerror}.") from error

    @contextmanager
    def new(self, name: str) -> Iterator[Path]:
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with NewFile(target) as new:
            yield new.path
            new.commit()


class RemoteStorage(Storage):
    """A folder that fsspec reaches: `s3://`, `gs://`, `hf://`, `https://`.

    Files are written here first and then put as a whole: an object store shows what an interrupted
    stream has sent so far.
    """

    def __init__(self, url: str) -> None:
        """Raises MissingDependencyError, or AltogetherError if the URL leads nowhere."""
        super().__init__(url.rstrip("/"))
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise MissingDependencyError("fsspec", "shards", f"opening {url}") from error
        try:
            self._system, self._root = url_to_fs(self.where)
        except (ImportError, ValueError) as error:
            raise AltogetherError(f"{url} cannot be opened: {error}.") from error

    def names(self) -> list[str]:
        prefix = self._root.rstrip("/") + "/"
        with self._named(""):
            paths: list[str] = self._system.find(self._root)
        names = [path[len(prefix) :] for path in paths if path.startswith(prefix)]
        return sorted(name for name in names if not any(p[:1] == "." for p in name.split("/")))

    def stamp(self, name: str) -> str | None:
        with self._named(name):
            try:
                info: dict[str, Any] = self._system.info(self._path(name))
            except FileNotFoundError:
                return None
        version = info.get("ETag") or info.get("etag") or info.get("mtime") or ""
        return f"{info.get('size')}-{version}"

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="altogether-rt-") as folder:
            path = Path(folder) / ("input" + "".join(Path(name).suffixes[-2:]))
            with self._named(name):
                self._system.get_file(self._path(name), str(path))
            yield path

    def read(self, name: str) -> bytes | None:
        if self.stamp(name) is None:
            return None
        with self._named(name):
            data: bytes = self._system.cat_file(self._path(name))
        return data

    def write(self, name: str, data: bytes) -> None:
        with self.new(name) as path:
            path.write_bytes(data)

    @contextmanager
    def new(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="altogether-rt-") as folder:
            path = Path(folder) / "output"
            path.touch()
            yield path
            with self._named(name):
                self._system.put_file(str(path), self._path(name))

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Makes whatever a store's own library raises an error that names the file."""
        try:
            yield
        except Exception as error:
            reason = str(error).partition("\n")[0][:200]
            raise AltogetherError(
                f"{self.where}/{name}: {reason or type(error).__name__}."
            ) from error

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


def open_storage(where: str) -> Storage:
    """A folder by its path or URL. Raises AltogetherError if a URL cannot be opened."""
    if "://" in where:
        return RemoteStorage(where)
    return LocalStorage(Path(where))
