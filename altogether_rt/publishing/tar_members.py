"""The members of a tar file with the bytes that each takes up, so that they can be copied as they
are."""

from __future__ import annotations

import os
import tarfile
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal

from altogether_rt.data.shards import tar_members
from altogether_rt.data.shards.base import Ending
from altogether_rt.data.shards.tar_headers import Header

__all__ = ["BLOCK", "Member", "TarMembers", "copy_bytes", "write_end", "write_member"]

BLOCK: Final = tarfile.BLOCKSIZE

_COPY_BYTES: Final = 1024 * 1024

#: pax records that describe the data of a member, not the file that it was.
_PAX_OF_DATA: Final = ("size", "hdrcharset", "GNU.sparse")


@dataclass(frozen=True)
class Member:
    """One member: `start` to `end` are its headers, its data and their padding."""

    info: tarfile.TarInfo
    start: int
    end: int

    @property
    def name(self) -> str:
        """In UTF-8; bytes that are not, as `\\xff`: as rows have it."""
        return _as_text(self.info.name)

    def written(self, start: str) -> str:
        """What stands in the tar for `start`, with which the name begins."""
        name = self.info.name
        if name.startswith(start):
            return start
        ends = range(len(name))
        return name[: bisect_left(ends, len(start), key=lambda end: len(_as_text(name[:end])))]


def _as_text(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class _Walk(tar_members.TarMembers):
    """Keeps the headers of members that it is about to yield."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, by_library=True)
        #: By offset of the content: header, end with padding, whether nothing is lost before it.
        self.headers: dict[int, tuple[tarfile.TarInfo, int, bool]] = {}
        #: Header and end of the last folder, if no member follows it.
        self.folder: tuple[tarfile.TarInfo, int] | None = None

    def _pass(self, header: Header) -> None:
        assert header.info is not None, "all headers are read by the library"
        is_whole = not self._damage and self._appended_at is None
        found = header.info, header.follows
        self.folder = found if header.member is None and is_whole else None
        if header.member is not None:
            self.headers[header.member.offset] = *found, is_whole


class TarMembers:
    """The members of an open tar file, in order; after that, how it ended."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.ending = Ending("whole")

    def __iter__(self) -> Iterator[Member]:
        """Members, also those behind damage; one whose content is damaged is left out."""
        walk = _Walk(self._file.fileno())
        behind = 0  # the end of the member before
        for member in walk:
            info, end, follows = walk.headers.pop(member.offset)
            if member.end is None:
                # Between it and the one before are folders, and headers that hold for all members.
                yield Member(info, behind if follows else info.offset, end)
            behind = end
        self.ending = walk.ending
        if walk.folder is not None:
            yield Member(walk.folder[0], behind, walk.folder[1])

    def read(self, member: Member, max_bytes: int) -> bytes | None:
        """The data of a plain file of at most `max_bytes`; None of anything else."""
        info = member.info
        if not info.isreg() or info.issparse() or info.size > max_bytes:
            return None
        return os.pread(self._file.fileno(), info.size, info.offset_data)


def copy_bytes(source: BinaryIO, target: BinaryIO, start: int, end: int) -> None:
    """Copy bytes `start` to `end` of one file to the end of another."""
    # By its offset: whatever else reads this descriptor may move its position (SEEK_DATA does).
    while start < end:
        piece = os.pread(source.fileno(), min(_COPY_BYTES, end - start), start)
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
