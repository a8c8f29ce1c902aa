"""Captions as text files beside their images, as tools that train image models read them."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from altogether_rt.artifacts.files import write_whole
from altogether_rt.data.problems import Problems
from altogether_rt.data.rows import read_rows
from altogether_rt.data.sniff import IMAGE_SUFFIXES, has_image_suffix
from altogether_rt.errors import AltogetherError

__all__ = ["OF_ONE_FILE", "Sidecars", "count_own", "sidecar_name"]

#: Rows whose sidecars are looked at to see whether they are ours.
_MAX_ROWS_COMPARED: Final = 10_000
_MAX_FILES_COMPARED: Final = 10

#: What is wrong with one file or folder, so that the others can still be written.
OF_ONE_FILE: Final = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOENT),
        *(errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.EILSEQ),
    }
)


def sidecar_name(name: str, suffix: str) -> str:
    """The name of an image's sidecar: `photo.txt` for `photo.jpg`."""
    return (name[: name.rfind(".")] if has_image_suffix(name) else name) + suffix


@dataclass
class Sidecars:
    """Writes `photo.txt` beside `photo.jpg`, whole or not at all, and never over another text.

    Nothing is written, or compared, through a link that leaves the folder.
    """

    root: Path
    suffix: str  # ".txt"
    protected: frozenset[str] = frozenset()  # real paths of files that the run reads or writes
    kept: Problems = field(default_factory=Problems)  # files with other text, left unchanged
    shared: Problems = field(default_factory=Problems)  # images whose sidecar is another image's
    failed: Problems = field(default_factory=Problems)  # files that cannot be written, and why

    def __post_init__(self) -> None:
        plain = self.suffix.startswith(".") and len(self.suffix) > 1 and "/" not in self.suffix
        if not plain or self.suffix.lower() in IMAGE_SUFFIXES:
            raise AltogetherError(
                f"--sidecar is {self.suffix!r}: it must be an ending such as .txt or .caption."
            )
        self._real_root = os.path.realpath(self.root)
        self._inside: dict[str, bool] = {}  # by folder
        self._owners: dict[str, str] = {}  # of sidecars that several images would have

    def assign(self, names: Iterable[str]) -> None:
        """Give a sidecar that several of the images would have to the first of them."""
        first: dict[str, str] = {}
        for name in names:
            sidecar = sidecar_name(name, self.suffix)
            if sidecar in first:
                self._owners[sidecar] = first[sidecar]
            else:
                first[sidecar] = name

    def path(self, name: str) -> Path:
        """The sidecar of an image, by the image's name relative to the root."""
        return self.root / sidecar_name(name, self.suffix)

    def write(self, name: str, caption: str, former: str | None = None) -> None:
        """Write the sidecar of an image, unless it exists with another text.

        former: the caption that an earlier run gave; a file with that text may be replaced. A
        sidecar that cannot be written is counted; a full disk raises OSError.
        """
        path = self.path(name)
        owner = self._owners.get(sidecar_name(name, self.suffix), name)
        if owner != name:
            self.shared.add(f"{path.name} of {name} is that of {owner}")
            return
        if not self._is_inside(path.parent):
            self.failed.add(f"{path} is outside of {self.root}")
            return
        texts = [_encode(text) for text in (caption, former) if text is not None]
        try:
            held = _held(path, texts)
            if held == texts[0]:
                return
            is_ours = held is None or held in texts
            if is_ours and os.path.realpath(path) not in self.protected:
                # There may be millions, and they can be written again: the disk is not waited for.
                write_whole(path, texts[0], sync=False)
            else:
                self.kept.add(str(path))
        except OSError as error:
            if error.errno not in OF_ONE_FILE:
                raise
            self.failed.add(f"{path}: {error.strerror}")

    def _is_inside(self, folder: Path) -> bool:
        """Whether a folder is the root or in it, with every link followed."""
        key = str(folder)
        if key not in self._inside:
            real = os.path.realpath(folder)
            self._inside[key] = os.path.commonpath((real, self._real_root)) == self._real_root
        return self._inside[key]


def count_own(out: Path, root: Path, suffix: str) -> int:
    """How many sidecars hold captions of `out`, of its journal, or of another file beside it.

    Only the first rows of each are compared.
    """
    own: set[Path] = set()
    for path in (out, Path(f"{out}.part"), *_others_beside(out)):
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                continue
            with path.open("rb") as file:
                for _, row, _ in itertools.islice(read_rows(file), _MAX_ROWS_COMPARED):
                    if row is not None and "caption" in row:
                        text = _encode(row["caption"])
                        sidecar = root / sidecar_name(row["file_name"], suffix)
                        if sidecar not in own and _held(sidecar, [text]) == text:
                            own.add(sidecar)
        except (OSError, ValueError):
            continue  # it only decides whether there is something to say
    return len(own)


def _others_beside(out: Path) -> list[Path]:
    try:
        found = [path for path in out.parent.glob(f"*{out.suffix}") if path != out]
    except (OSError, ValueError):
        return []
    return sorted(found)[:_MAX_FILES_COMPARED] if out.suffix else []


def _encode(text: str) -> bytes:
    return (text + "\n").encode("utf-8", "replace")


def _held(path: Path, texts: list[bytes]) -> bytes | None:
    """What a sidecar holds: None if it is not there, nothing if it is certainly none of `texts`.

    A file of another length is not read, nor is anything but a regular file.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode) or status.st_size not in map(len, texts):
        return b""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(max(map(len, texts)) + 1)
