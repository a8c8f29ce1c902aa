"""The members of a tar file with the bytes that each takes up, so that they can be copied as they
are."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal, Self

__all__ = ["BLOCK", "Member", "TarMembers", "copy_bytes", "write_end", "write_member"]

BLOCK: Final = tarfile.BLOCKSIZE

#: Maximum bytes of one extended header (a long name, pax records), which is read into memory.
_MAX_EXTENDED_BYTES: Final = 1024 * 1024
_EXTENDED: Final = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
_COPY_BYTES: Final = 1024 * 1024

#: pax records that describe the data of a member, not the file that it was.
_PAX_OF_DATA: Final = ("size", "hdrcharset", "GNU.sparse")


class _Header(tarfile.TarInfo):
    """A header that does not allocate what a hostile size asks for."""

    def _proc_member(self, tarfile_: tarfile.TarFile) -> Self | tarfile.TarInfo:
        if self.type in _EXTENDED and not 0 <= self.size <= _MAX_EXTENDED_BYTES:
            raise tarfile.InvalidHeaderError("an extended header is too large")  # type: ignore[attr-defined]
        return super()._proc_member(tarfile_)  # type: ignore[misc, no-any-return]


@dataclass(frozen=True)
class Member:
    """One member: `start` to `end` are its headers, its data and their padding."""

    info: tarfile.TarInfo
    start: int
    end: int

    @property
    def name(self) -> str:
        """In UTF-8; bytes that are not, as `\\xff`: as rows have it."""
        return self.info.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class TarMembers:
    """The members of an open tar file, in order; after that, how it ended."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        #: Where reading stopped before the end, and why; None of a whole file.
        self.damage: str | None = None

    def __iter__(self) -> Iterator[Member]:
        size = self._file.seek(0, 2)
        self._file.seek(0)
        start = 0
        try:
            with tarfile.open(
                fileobj=self._file, mode="r:", tarinfo=_Header, errors="surrogateescape"
            ) as archive:
                while (info := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # of a million none is kept
                    end = archive.offset
                    if end > size:
                        break
                    yield Member(info, start, end)
                    start = end
        except (tarfile.TarError, ValueError, OverflowError):
            pass  # what is found at `start` says why
        self.damage = self._why(start, size)

    def read(self, member: Member, max_bytes: int) -> bytes | None:
        """The data of a plain file of at most `max_bytes`; None of anything else."""
        info = member.info
        if not info.isreg() or info.issparse() or info.size > max_bytes:
            return None
        self._file.seek(info.offset_data)
        return self._file.read(info.size)

    def _why(self, start: int, size: int) -> str | None:
        """What is wrong at `start`, where no further member was found."""
        self._file.seek(start)
        block = self._file.read(BLOCK)
        if not block.strip(b"\0") and (block or start):
            return None  # the end of the archive, or of a file without an end mark
        if len(block) < BLOCK:
            return f"truncated at byte {start}"
        try:
            tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError):
            return f"damaged at byte {start}"
        return f"truncated at byte {size}"


def copy_bytes(source: BinaryIO, target: BinaryIO, start: int, end: int) -> None:
    """Copy bytes `start` to `end` of one file to the end of another."""
    source.seek(start)
    while start < end:
        piece = source.read(min(_COPY_BYTES, end - start))
        if not piece:
            raise OSError(5, "the file became shorter while it was read")
        target.write(piece)
        start += len(piece)


def write_member(target: BinaryIO, name: str, data: bytes, like: tarfile.TarInfo) -> None:
    """Append a member with the time, mode and owner of another one.

    name: may have surrogate escapes, as `like.name` does.
    """
    info = tarfile.TarInfo(name)
    layout: Literal[1, 2] = tarfile.GNU_FORMAT
    info.mode, info.mtime = like.mode, like.mtime
    info.uid, info.gid, info.uname, info.gname = like.uid, like.gid, like.uname, like.gname
    if like.name == name and like.pax_headers:
        layout = tarfile.PAX_FORMAT
        info.pax_headers = {
            key: value
            for key, value in like.pax_headers.items()
            if not key.startswith(_PAX_OF_DATA)
        }
    info.size = len(data)
    target.write(info.tobuf(layout, "utf-8", "surrogateescape"))
    target.write(data)
    target.write(bytes(-len(data) % BLOCK))


def write_end(target: BinaryIO) -> None:
    """Two empty blocks, and as many more as fill a record, as tar programs write them."""
    target.write(bytes(2 * BLOCK))
    target.write(bytes(-target.tell() % tarfile.RECORDSIZE))
