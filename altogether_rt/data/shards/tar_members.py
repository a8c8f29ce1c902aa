"""The members of a tar, read on behind damage, and how the tar ends.

The standard library parses the headers. It stops without a word at the first header that it cannot
read, so the walk from header to header is our own: behind damage it looks for the next header, at
whatever byte that begins, since lost or added bytes shift all that follow.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from altogether_rt.data.shards.base import Ending
from altogether_rt.data.shards.tar_headers import (
    FileWindow,
    Header,
    HeaderContext,
    HeaderInfo,
    HeaderReader,
    Member,
    as_text,
    joined_name,
    plain_header,
)

__all__ = ["TarMembers"]

_BLOCK_BYTES: Final = 512
_CHUNK_BYTES: Final = 1 << 20
#: Where every header has this mark, which all writers of the last thirty years set (POSIX ustar).
_MARK: Final = b"ustar"
_MARK_OFFSET: Final = 257
#: Marks that are no header's. A file made of nothing else must not take hours.
_MAX_FALSE_MARKS: Final = 20_000
#: Contents up to this size are looked into for headers that they have swallowed.
_MAX_LOOKED_INTO: Final = 1 << 16
_SEEK_DATA: Final = getattr(os, "SEEK_DATA", None)


class TarMembers:
    """Walks through a tar once; `ending` is known when the walk is over."""

    def __init__(self, descriptor: int, *, by_library: bool = False) -> None:
        """descriptor: of a regular file, which stays open and keeps its position.

        by_library: read plain headers by the standard library too, for all that they say.
        """
        self._by_library = by_library
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._file = FileWindow(descriptor)
        self._headers = HeaderReader(self._file)
        self._context = HeaderContext(self._headers)
        self._damage: list[int] = []  # where damage begins
        self._num_damaged = 0
        self._appended_at: int | None = None
        self.ending = Ending("whole")

    def __iter__(self) -> Iterator[Member]:
        """Members in the order of the file, but for folders. Raises OSError."""
        at = 0
        pending: Member | None = None  # the last member: damage behind it may be its own
        while at < self._size:
            header = self._header(at)
            found = self._swallowed(pending, at, at_end=not isinstance(header, Header))
            if found is None and isinstance(header, Header):
                if pending is not None:
                    yield pending
                self._pass(header)
                pending, at = header.member, header.follows
                if at > self._size and pending is not None:
                    # Cut off, unless its size is what is wrong and other members follow.
                    found = self._find(pending.offset)
                    if found is None:
                        yield pending
                        self._end_cut(pending)
                        return
                    self._add_damage(header.offset)
                    pending, at = pending._replace(end=found), found
                continue
            if found is None and isinstance(header, _Zeros):
                if header.next is None:
                    break
                at = header.next
                if isinstance(self._header(at), Header):
                    self._appended_at = self._appended_at or at
                    continue
            found = found or self._find(at)
            if found is None:
                break
            self._add_damage(min(at, found))
            if pending is not None and found < pending.offset + pending.size:
                pending = pending._replace(end=found)
            at = found
        if pending is not None:
            yield pending
        self._end(at)

    def _pass(self, header: Header) -> None:
        """Called with each header on the way, before its member is yielded."""

    def _swallowed(self, member: Member | None, end: int, *, at_end: bool) -> int | None:
        """A header within a member, which should reach to `end`: bytes of it were lost.

        Large contents are only looked into where the walk ends or is lost. Tars in tars are meant.
        """
        if member is None or member.kind != "file" or member.name.lower().endswith(".tar"):
            return None
        if member.size > _MAX_LOOKED_INTO and not at_end:
            return None
        return self._find(member.offset, end) if member.end is None else None

    def is_swallowing(self, offset: int, size: int, content: bytes | None = None) -> bool:
        """Whether a content that was too large to be looked into holds a header: the same.

        content: its bytes, if they have been read. The members behind that header are lost, and
        `ending` says so. Raises OSError.
        """
        if size <= _MAX_LOOKED_INTO or (content is not None and _MARK not in content):
            return False
        found = self._find(offset, offset + size)
        if found is not None:
            self._add_damage(found)
            self._set_ending("whole", None, "")
        return found is not None

    def _header(self, at: int) -> Header | _Zeros | None:
        """The member whose header is there; None if it is damaged or the file ends in it."""
        block = b"" if self._by_library else self._file.read(_BLOCK_BYTES, at)
        plain = plain_header(block)
        if plain is not None and not self._context.pax_headers:  # which may change any header
            name, size = plain
            offset = at + _BLOCK_BYTES
            end = offset + size
            cut = self._size if end > self._size else None
            member = Member(as_text(name), offset, size, "file", "", cut)
            return Header(at, member, end + -size % _BLOCK_BYTES)
        self._headers.seek(at)
        self._context.extensions.clear()
        try:
            info = HeaderInfo.fromtarfile(cast(Any, self._context))
        except tarfile.HeaderError:
            is_zero = not self._file.read(_BLOCK_BYTES, at).strip(b"\0")
            return self._zeros(at) if is_zero and at + _BLOCK_BYTES <= self._size else None
        except (OSError, MemoryError):
            raise
        except Exception:  # whatever a parser of hostile numbers raises
            return None
        follows = self._context.offset
        if info.size < 0 or info.offset_data > follows or follows <= at:
            return None
        return Header(info.offset, self._member(info, follows), follows, info)

    def _member(self, info: tarfile.TarInfo, follows: int) -> Member | None:
        name = as_text(info.name)
        if info.isdir():
            return None
        if info.islnk() or info.issym():
            link = as_text(info.linkname)
            if info.issym():  # relative to the folder that it is in
                link = joined_name(name.rpartition("/")[0], link)
            return Member(name, info.offset_data, 0, "link", link)
        if not info.isreg() and info.type in tarfile.SUPPORTED_TYPES:
            return Member(name, info.offset_data, 0, "other")
        stored = follows - info.offset_data
        is_sparse = info.sparse is not None
        end = info.offset_data + (stored if is_sparse else info.size)
        cut = self._size if end > self._size else None
        sparse = info if is_sparse else None
        return Member(name, info.offset_data, info.size, "file", "", cut, sparse)

    def _zeros(self, at: int) -> _Zeros:
        """The zeros from `at` on: the end mark, and what follows it."""
        position = at
        while position < self._size:
            position = self._next_data(position)
            chunk = self._file.read(_CHUNK_BYTES, position)
            rest = chunk.lstrip(b"\0")
            if rest:
                position += len(chunk) - len(rest)
                return _Zeros((position - at) // _BLOCK_BYTES * _BLOCK_BYTES + at)
            position += len(chunk) if chunk else self._size
        return _Zeros(None)

    def _next_data(self, position: int) -> int:
        """The first byte from `position` on that is not in a hole of the file."""
        if _SEEK_DATA is None:
            return position
        before = os.lseek(self._descriptor, 0, os.SEEK_CUR)  # where others read on
        try:
            return os.lseek(self._descriptor, position, _SEEK_DATA)
        except OSError:  # nothing but a hole, or a file system that has none
            return self._size if position < self._size and self._ends_in_hole() else position
        finally:
            os.lseek(self._descriptor, before, os.SEEK_SET)

    def _ends_in_hole(self) -> bool:
        return self._file.read(1, self._size - 1) == b"\0"

    def _find(self, start: int, end: int | None = None) -> int | None:
        """The offset of the next header that begins at `start` or behind it, and before `end`."""
        if end is None:
            end = self._size
        elif not self._file.has(_MARK, start + _MARK_OFFSET, end - 1 + _MARK_OFFSET + len(_MARK)):
            return None
        false_marks = 0
        position = start
        while position < end:
            if end - position > _CHUNK_BYTES:
                position = max(position, self._next_data(position) - _MARK_OFFSET)
            size = min(_CHUNK_BYTES, end + _BLOCK_BYTES - position)
            chunk = self._file.read(size, position)
            mark = chunk.find(_MARK, _MARK_OFFSET)
            while mark >= 0:
                at = position + mark - _MARK_OFFSET
                if at >= end:
                    return None
                if isinstance(self._header(at), Header):
                    return at
                false_marks += 1
                if false_marks > _MAX_FALSE_MARKS:
                    return None
                mark = chunk.find(_MARK, mark + 1)
            if len(chunk) < _CHUNK_BYTES:
                return None
            position += len(chunk) - _BLOCK_BYTES
        return None

    def _add_damage(self, at: int) -> None:
        self._num_damaged += 1
        if not self._damage:
            self._damage.append(at)

    def _end_cut(self, member: Member) -> None:
        has = max(0, self._size - member.offset)
        self._set_ending(
            "truncated",
            self._size,
            f"it is cut off at byte {self._size:,}, within {member.name}, of which "
            f"{min(has, member.size):,} of {member.size:,} bytes are there",
        )

    def _end(self, at: int) -> None:
        """Set the ending of a tar whose last member is whole. at: where the walk ended."""
        rest = self._size - at
        if rest <= 0:
            if self._size == 0:
                self._set_ending("truncated", 0, "the file is empty")
            else:
                self._set_ending("unmarked", self._size, "it has no end mark")
            return
        info = self._header(at)
        if isinstance(info, _Zeros) and info.next is None:
            self._set_ending("whole", None, "")
        elif rest < _BLOCK_BYTES or self._headers.hit_end:
            head = self._file.read(_BLOCK_BYTES, at)
            if rest < _BLOCK_BYTES and not head.strip(b"\0"):
                self._set_ending("unmarked", self._size, "it is cut off within its end mark")
            else:
                message = f"it is cut off at byte {self._size:,}, within a header"
                self._set_ending("truncated", self._size, message)
        else:
            if isinstance(info, _Zeros):
                at = info.next or at
            self._add_damage(at)
            self._set_ending("whole", None, "")

    def _set_ending(self, kind: Any, offset: int | None, message: str) -> None:
        """The worst that was seen, and the rest in its message."""
        if self._damage:
            at = self._damage[0]
            several = f" and at {self._num_damaged - 1:,} more" if self._num_damaged > 1 else ""
            also = f"; {message}" if message else ""
            text = f"it is damaged at byte {at:,}{several}, and what can be read was read{also}"
            self.ending = Ending("damaged", at, text)
        elif self._appended_at is not None and kind in ("whole", "unmarked"):
            at = self._appended_at
            text = f"another tar follows its end mark at byte {at:,}, and was read as well"
            self.ending = Ending("appended", at, text)
        else:
            self.ending = Ending(kind, offset, message)


@dataclass(frozen=True)
class _Zeros:
    """A block of zeros."""

    next: int | None  # the first block behind it that has something in it
