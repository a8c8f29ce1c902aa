"""Headers of tars: the standard library's parser, kept from what hostile ones make it do."""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass, field
from typing import Any, Final, cast

__all__ = [
    "FileWindow",
    "HeaderContext",
    "HeaderInfo",
    "HeaderReader",
    "as_text",
    "joined_name",
    "open_sparse",
]

#: Bytes of a header and its extensions. A pax header or a long name is read into memory.
_MAX_HEADER_BYTES: Final = 1 << 20
#: Parts of a header: extensions may follow each other for ever.
_MAX_HEADER_READS: Final = 32
#: Headers that extend the next one: a long name, a long link, a pax header.
_EXTENSIONS: Final = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE)


class FileWindow:
    """A file read through one window: members are small and many, and each call has its price.

    For one thread. What is read twice was not written meanwhile: shards do not change.
    """

    def __init__(self, descriptor: int, num_bytes: int = 1 << 18) -> None:
        """num_bytes: of the window; longer reads pass it by."""
        self._descriptor = descriptor
        self._num_bytes = num_bytes
        self._start = 0
        self._data = b""

    def read(self, size: int, position: int) -> bytes:
        """What `os.pread` gives: up to `size` bytes, fewer where the file ends. Raises OSError."""
        begin = position - self._start
        if not 0 <= begin <= len(self._data) - size:
            if size >= self._num_bytes:
                return os.pread(self._descriptor, size, position)
            self._data = os.pread(self._descriptor, self._num_bytes, position)
            self._start, begin = position, 0
        return self._data[begin : begin + size]


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
