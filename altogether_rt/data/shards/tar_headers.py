"""Headers of tars: the standard library's parser, kept from what hostile ones make it do.

Nearly all members are plain files with a plain header, and `plain_header` reads those in a quarter
of the time. It leaves everything else, and whatever is not quite as usual, to the library.
"""

from __future__ import annotations

import os
import re
import tarfile
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, cast

__all__ = [
    "FileWindow",
    "Header",
    "HeaderContext",
    "HeaderInfo",
    "HeaderReader",
    "Member",
    "as_text",
    "joined_name",
    "open_sparse",
    "plain_header",
]

#: Bytes of a header and its extensions. A pax header or a long name is read into memory.
_MAX_HEADER_BYTES: Final = 1 << 20
#: Parts of a header: extensions may follow each other for ever.
_MAX_HEADER_READS: Final = 32
#: Headers that extend the next one: a long name, a long link, a pax header.
_EXTENSIONS: Final = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE)

_NAME_BYTES: Final = 100
#: What follows the name of a regular file, if its numbers are octal and its name has no prefix
#: (POSIX ustar).
_PLAIN: Final = re.compile(
    rb"(?:[0-7]{7}[\0 ]|[0-7]{6} \0){3}"  # mode, owner, group
    rb"(?P<size>[0-7]{11})[\0 ]"
    rb"[0-7]{11}[\0 ]"  # time
    rb"(?P<sum>[0-7]{6})(?:\0 | \0)"
    rb"0.{100}ustar.{67}"  # type, link, mark, names of owner and group
    rb"(?:(?:[0-7]{7}[\0 ]|[0-7]{6} \0){2}|\0{16})"  # device
    rb"\0.{166}",
    re.DOTALL,
)
#: What the checksum counts for the eight bytes of its own.
_SUM_OF_SPACES: Final = 8 * 0x20


class Member(NamedTuple):
    """A member of a tar: where its content is. Nothing of it has been read."""

    name: str  # in UTF-8; bytes that are not, as `\\xff`
    offset: int  # of the content
    size: int  # bytes of the content
    kind: str  # "file", "link" or, as devices and FIFOs are, "other"
    link: str = ""  # name of the member that a link means
    end: int | None = None  # byte at which the content is cut off, if it is
    sparse: tarfile.TarInfo | None = None  # for `open_sparse`, if the content has holes


class Header(NamedTuple):
    """A header of a tar."""

    offset: int
    member: Member | None  # None: a folder
    follows: int  # where the next header should be
    info: tarfile.TarInfo | None = None  # None: of a plain file, and not read by the library


class FileWindow:
    """A file read through one window: members are small and many, and each call has its price.

    For one thread. What is read twice was not written meanwhile: shards do not change.
    """

    def __init__(self, descriptor: int, num_bytes: int = 1 << 18, kept: int = 1 << 17) -> None:
        """num_bytes: that are read at once; longer reads pass the window by. kept: bytes that stay
        in it when it moves on.
        """
        self._descriptor = descriptor
        self._num_bytes = num_bytes
        self._kept = kept
        self._start = 0
        self._data = b""

    def has(self, mark: bytes, start: int, end: int) -> bool:
        """Whether there may be a `mark` from `start` to `end`; True if that is not in the window.

        Nothing is copied, and nothing is read.
        """
        begin = start - self._start
        if not 0 <= begin <= end - self._start <= len(self._data):
            return True
        # From behind: in bytes like those of an image, that takes a fifth of the time of `find`.
        return self._data.rfind(mark, begin, end - self._start) >= 0

    def read(self, size: int, position: int) -> bytes:
        """What `os.pread` gives: up to `size` bytes, fewer where the file ends. Raises OSError."""
        begin = position - self._start
        if not 0 <= begin <= len(self._data) - size:
            if size >= self._num_bytes:
                return os.pread(self._descriptor, size, position)
            self._move_to(position)
            begin = position - self._start
        return self._data[begin : begin + size]

    def _move_to(self, position: int) -> None:
        """Read on from `position`, and keep what is just before it, as far as that was read."""
        kept = b""
        if self._start <= position <= self._start + len(self._data):
            kept = self._data[max(0, position - self._start - self._kept) : position - self._start]
        more = os.pread(self._descriptor, self._num_bytes, position)
        self._start, self._data = position - len(kept), kept + more


def plain_header(block: bytes) -> tuple[str, int] | None:
    """(name, bytes of content) of a plain file whose header this block is.

    None for whatever else it is, a header or none: `tarfile.TarInfo.frombuf` tells.
    """
    found = _PLAIN.fullmatch(block, _NAME_BYTES)
    if found is None or int(found["sum"], 8) != sum(block) - sum(block[148:156]) + _SUM_OF_SPACES:
        return None
    name = block[:_NAME_BYTES].partition(b"\0")[0]
    return name.decode("utf-8", "surrogateescape"), int(found["size"], 8)


def open_sparse(descriptor: int, info: tarfile.TarInfo) -> tarfile.ExFileObject:
    """The content of a member that has holes. The file must not be read by others meanwhile."""
    context = HeaderContext(HeaderReader(FileWindow(descriptor), limited=False))
    return tarfile.ExFileObject(cast(Any, context), info)


def as_text(name: str) -> str:
    """The name in UTF-8: bytes that are not, as `\\xff`."""
    if name.isascii():
        return name
    raw = name.encode("utf-8", "surrogateescape" if _is_escaped(name) else "surrogatepass")
    return raw.decode("utf-8", "backslashreplace")


def _is_escaped(name: str) -> bool:
    return all("\udc80" <= char <= "\udcff" for char in name if "\ud800" <= char <= "\udfff")


def joined_name(folder: str, name: str) -> str:
    """A name relative to a folder of the tar: text alone, nothing is looked up."""
    parts: list[str] = [] if name.startswith("/") else [part for part in folder.split("/") if part]
    for part in name.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


class HeaderInfo(tarfile.TarInfo):
    """A header that has no extension twice: the first would be that of a member that is lost."""

    def _proc_member(self, context: Any) -> tarfile.TarInfo:
        if self.type in _EXTENSIONS:
            if self.type in context.extensions:
                raise tarfile.HeaderError("an extension without its header")
            context.extensions.add(self.type)
        info: tarfile.TarInfo = super()._proc_member(context)  # type: ignore[misc]
        return info


class HeaderReader:
    """What the standard library reads headers from: never much for one."""

    def __init__(self, file: FileWindow, *, limited: bool = True) -> None:
        self._file = file
        self._limited = limited
        self.name = None
        self.seek(0)

    def seek(self, position: int) -> None:
        self._position = self._start = position
        self._num_reads = 0
        self.hit_end = False

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        self._num_reads += 1
        is_long = self._position + size - self._start > _MAX_HEADER_BYTES
        if size < 0 or (self._limited and (is_long or self._num_reads > _MAX_HEADER_READS)):
            raise tarfile.HeaderError("longer than any header is")
        data = self._file.read(size, self._position)
        self._position += len(data)
        self.hit_end |= len(data) < size
        return data


@dataclass
class HeaderContext:
    """What `tarfile.TarInfo` asks of the `TarFile` that it is in."""

    fileobj: HeaderReader
    encoding: str = "utf-8"
    errors: str = "surrogateescape"
    offset: int = 0  # of the next header
    pax_headers: dict[str, str] = field(default_factory=dict)  # that hold for all members
    extensions: set[bytes] = field(default_factory=set)  # types of those of one header
