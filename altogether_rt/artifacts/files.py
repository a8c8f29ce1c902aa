"""Files and folders that are written whole or not at all.

The content goes to a temporary file (or folder) beside the target, is flushed to disk and becomes
the target by one rename. Whatever happens meanwhile, the target is what it was before or what it
was meant to become. The temporary has a random name and is created exclusively, so nothing that
already lies in the folder, a symbolic link for example, is ever opened or written through.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, Self

from altogether_rt.errors import AltogetherError

__all__ = [
    "FULL_DISK",
    "NewFile",
    "NewFolder",
    "append_to",
    "flush_to_disk",
    "is_temporary",
    "naming_full_disk",
    "new_file",
    "open_to_append",
    "write_or_send",
    "write_whole",
]

#: Numbers of the system's errors where a file cannot grow.
FULL_DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: Bytes of the target's name that its temporary's name repeats. Names may have 255 bytes, and the
#: rest of the temporary's name has 22.
_MAX_NAME_BYTES: Final = 200

_TEMPORARY: Final = re.compile(r"\..+\.[0-9a-f]{16}\.tmp", re.DOTALL)

_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class NewFile:
    """A file under construction; a context manager. `commit` makes it the target.

    Leaving the block without `commit` removes it. A library that takes no file object may write to
    `path` instead.
    """

    def __init__(self, target: str | Path, *, follow: bool = False, sync: bool = True) -> None:
        """follow: if the target is a symbolic link, replace the file that it leads to, not the
        link. sync: wait until the content is on the disk before the target is replaced.

        Raises AltogetherError if the target is a device, a FIFO or a socket, which are not
        replaced.
        """
        self.target = Path(os.path.realpath(target) if follow else target)
        _check_replaceable(self.target)
        self.path = _temporary_path(self.target)
        self._sync = sync

    def __enter__(self) -> Self:
        """Raises OSError if the file cannot be created in the target's folder."""
        self.file: BinaryIO = os.fdopen(os.open(self.path, _CREATE, 0o666), "w+b")  # less the umask
        return self

    def commit(self, target: Path | None = None) -> None:
        """Replace the target, or `target` in the same folder, by what was written."""
        self.file.close()
        if self._sync:
            flush_to_disk(self.path)
        os.replace(self.path, target or self.target)

    def __exit__(self, *_: object) -> None:
        # On a full disk closing fails too, since it writes what is left: the file goes anyway.
        with suppress(OSError):
            self.file.close()
        self.path.unlink(missing_ok=True)


@contextmanager
def new_file(target: str | Path, *, follow: bool = False, sync: bool = True) -> Iterator[BinaryIO]:
    """A binary file that becomes `target` when the block ends, and is removed if it raises.

    Arguments and errors: see `NewFile`.
    """
    with NewFile(target, follow=follow, sync=sync) as new, naming_full_disk(target):
        yield new.file
        new.commit()


@contextmanager
def naming_full_disk(path: str | Path) -> Iterator[None]:
    """The system's error says that a disk is full, and not which: have it name the file."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK and error.filename is None:
            error.filename = str(path)
        raise


def write_whole(
    target: str | Path, data: str | bytes, *, follow: bool = False, sync: bool = True
) -> None:
    """Make `data` the content of `target`. Arguments and errors: see `NewFile`.

    Text is written as UTF-8, and what UTF-8 cannot hold, as in a file name of other bytes, as the
    escape that JSON has for it.
    """
    with new_file(target, follow=follow, sync=sync) as file:
        file.write(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)


def append_to(path: str | Path) -> BinaryIO:
    """A file to add to, created if it is not there; what it holds can be read.

    Arguments and errors: see `open_to_append`.
    """
    return os.fdopen(open_to_append(path), "a+b", buffering=0)


def open_to_append(path: str | Path) -> int:
    """The descriptor of a file to add to, created if it is not there.

    Raises AltogetherError if it is a symbolic link, has a second name, or is a device or anything
    but a regular file, and OSError if it cannot be opened.
    """
    path = Path(path)
    if path.is_symlink():
        raise AltogetherError(f"{path} is a symbolic link and is not written to: name another.")
    _check_replaceable(path)
    # O_NONBLOCK: a FIFO that has come there meanwhile must not make it wait
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)  # less the umask
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        what = "has another name too" if stat.S_ISREG(status.st_mode) else "is not a regular file"
        raise AltogetherError(f"{path} {what} and is not written to: name another.")
    return descriptor


def write_or_send(target: str | Path, text: str) -> None:
    """`write_whole` of a text for a file; to a device, a pipe or our own stdout it is sent.

    `/dev/stdout` may lead to a file that the shell has opened for us: replacing that file would
    lose what is printed after this. Raises OSError if it cannot be written, AltogetherError for a
    folder or a socket.
    """
    try:
        status = os.stat(target)
    except OSError:
        status = None
    if status is not None and _is_stdout(status):
        sys.stdout.write(text)
    elif status is not None and (stat.S_ISCHR(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
        with open(target, "w", encoding="utf-8") as stream:
            stream.write(text)
    else:
        write_whole(target, text, follow=True)


class NewFolder:
    """A folder under construction; a context manager. `commit` makes it the target.

    Leaving the block without `commit` removes it.
    """

    def __init__(self, target: str | Path) -> None:
        self.target = Path(os.path.abspath(target))
        self.path = _temporary_path(self.target)

    def __enter__(self) -> Self:
        """Creates the folder, and the folders above it that are missing. Raises OSError."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.path.mkdir()
        return self

    def commit(self, *, first_wins: bool = False) -> None:
        """Make it the target, replacing a folder that may be there.

        first_wins: if another process makes the same target at the same time, keep that one.
        Raises OSError otherwise, with the former target back where it was.
        """
        for path in self.path.rglob("*"):
            if path.is_file():
                flush_to_disk(path)
        former = _temporary_path(self.target)
        with suppress(FileNotFoundError):
            os.rename(self.target, former)
        try:
            os.rename(self.path, self.target)
        except OSError:
            if not (first_wins and self.target.is_dir()):
                if not os.path.lexists(self.target):
                    with suppress(FileNotFoundError):
                        os.rename(former, self.target)
                raise
        _remove(former)

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def flush_to_disk(path: Path) -> None:
    """Wait until the file's content is on the disk, so that no power cut can leave it empty."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_temporary(name: str) -> bool:
    """Whether a file's name is that of a temporary, which a process that was killed leaves."""
    return _TEMPORARY.fullmatch(name) is not None


def _temporary_path(target: Path) -> Path:
    """A new name in the target's folder that nobody can predict, of at most 222 bytes."""
    name, encoded = target.name, os.fsencode(target.name)
    if len(encoded) > _MAX_NAME_BYTES:  # and not half a character, which some file systems refuse
        name = encoded[:_MAX_NAME_BYTES].decode(sys.getfilesystemencoding(), "ignore")
    return target.with_name(f".{name}.{secrets.token_hex(8)}.tmp")


def _is_stdout(status: os.stat_result) -> bool:
    try:
        return os.path.samestat(status, os.fstat(1))
    except OSError:  # started with stdout closed
        return False


def _check_replaceable(target: Path) -> None:
    try:
        mode = os.lstat(target).st_mode
    except OSError:
        return  # not there, or creating the temporary file will say what is wrong
    if stat.S_ISDIR(mode):
        raise AltogetherError(f"{target} is a folder: name a file.")
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise AltogetherError(f"{target} is not a regular file and is not replaced: name another.")


def _remove(path: Path) -> None:
    """Remove a replaced folder; of a link, only the link. Nothing is there if none was replaced."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
