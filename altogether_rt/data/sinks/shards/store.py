"""A folder of outputs, on a disk or an object store: files that are whole or absent.

Names are relative to the folder, with slashes. What every store promises: a reader never sees a
file that is half-written, and of several processes that `create` one file exactly one succeeds.
"""

from __future__ import annotations

import errno
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from altogether_rt.artifacts.files import new_file, write_whole

__all__ = ["LocalStore", "OutputStore"]

_MAX_TRIES = 20

#: What file systems without links say: FAT, SMB, mounted buckets.
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}

Result = TypeVar("Result")


class OutputStore(ABC):
    """Files below one folder. Methods raise OSError where the store fails."""

    url: str  # a path, or a URL that fsspec opens

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """A file's content; None if there is no such file."""

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """(name, content) of each file, as `read` returns it."""
        for name in names:
            yield name, self.read(name)

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Make `data` the content of a file, which may be there already."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Make a file that is not there yet; False, and nothing changes, if it is."""

    @abstractmethod
    def new_file(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A binary file that becomes `name` when the block ends, and is removed if it raises."""

    @abstractmethod
    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A file opened for reading, seekable. Raises FileNotFoundError."""

    @abstractmethod
    def remove(self, names: Iterable[str]) -> None:
        """Remove files, and folders that this leaves empty; those that are gone are passed over."""

    def tidy(self, start: str) -> None:  # noqa: B027
        """Remove what processes left that died while they were writing a file.

        start: of the names of the files. An object store shows nothing of them.
        """

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    @abstractmethod
    def files(self, folder: str) -> list[str]:
        """Names of the files that lie in a folder itself, sorted; none if there is no folder."""

    @abstractmethod
    def all_files(self) -> Iterator[str]:
        """Names of all files, in no order."""


class LocalStore(OutputStore):
    """A folder on a disk."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.url = str(root)

    def read(self, name: str) -> bytes | None:
        try:
            return self._path(name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        _in_its_folder(path, lambda: write_whole(path, data))

    def create(self, name: str, data: bytes) -> bool:
        path = self._path(name)
        # Written under a name of its own first: a file that is there is whole.
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")

        def create() -> bool:
            try:
                write_whole(draft, data)
                os.link(draft, path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return _create_without_links(path, data)
            finally:
                draft.unlink(missing_ok=True)
            return True

        return _in_its_folder(path, create)

    @contextmanager
    def new_file(self, name: str) -> Iterator[BinaryIO]:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as file:
            yield file

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        with self._path(name).open("rb") as file:
            yield file

    def remove(self, names: Iterable[str]) -> None:
        folders = set()
        for name in names:
            path = self._path(name)
            with suppress(FileNotFoundError):
                path.unlink()
            folders.add(path.parent)
        for folder in folders:
            self._remove_empty(folder)

    def tidy(self, start: str) -> None:
        folder, _, start = start.rpartition("/")
        with suppress(FileNotFoundError, NotADirectoryError):
            for name in os.listdir(self._path(folder)):
                if name.endswith(".tmp") and name.lstrip(".").startswith(start):
                    self._path(folder).joinpath(name).unlink(missing_ok=True)

    def exists(self, name: str) -> bool:
        return self._path(name).is_file()

    def files(self, folder: str) -> list[str]:
        try:
            with os.scandir(self._path(folder)) as entries:
                found = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        prefix = f"{folder}/" if folder else ""
        return sorted(f"{prefix}{name}" for name in found if not name.endswith(".tmp"))

    def all_files(self) -> Iterator[str]:
        for folder, _, names in os.walk(self.root):
            relative = Path(folder).relative_to(self.root).as_posix()
            prefix = "" if relative == "." else f"{relative}/"
            for name in names:
                if not name.endswith(".tmp"):
                    yield f"{prefix}{name}"

    def _path(self, name: str) -> Path:
        return self.root / name

    def _remove_empty(self, folder: Path) -> None:
        while folder != self.root and self.root in folder.parents:
            try:
                folder.rmdir()
            except OSError:
                return  # not empty, or gone
            folder = folder.parent


def _in_its_folder(path: Path, write: Callable[[], Result]) -> Result:
    """Write a file, in a folder that another process may remove because it is empty."""
    for _ in range(_MAX_TRIES):
        with suppress(FileNotFoundError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return write()
    path.parent.mkdir(parents=True, exist_ok=True)
    return write()


def _create_without_links(path: Path, data: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    return True
