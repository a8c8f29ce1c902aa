"""WebDataset tars: every sample of one, whatever became of it, and how the file ends."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from altogether_rt.data.images.files import check_bytes, reason_of
from altogether_rt.data.shards.base import Ending, Shard
from altogether_rt.data.shards.options import ShardOptions
from altogether_rt.data.shards.samples.grouping import Entry, Parts, SampleGroups
from altogether_rt.data.shards.samples.joined import JoinTable
from altogether_rt.data.shards.samples.members import MemberSource
from altogether_rt.data.shards.tar_headers import FileWindow, Member, open_sparse
from altogether_rt.data.shards.tar_members import TarMembers
from altogether_rt.data.sniff import SNIFF_BYTES
from altogether_rt.errors import AltogetherError, ImageError

__all__ = ["TarSource"]

#: Links that lead to links.
_MAX_LINKS: Final = 8


class TarSource(MemberSource):
    """The samples of a tar on this machine, in the order of their first members.

    Its headers are read first, without the contents, so that the members of a sample are found
    wherever they stand; then each sample's contents. Memory grows by some 200 bytes a member.
    """

    def __init__(
        self,
        shard: Shard,
        path: str | Path,
        options: ShardOptions | None = None,
        *,
        unpacking: Ending | None = None,
        joined: JoinTable | None = None,
    ) -> None:
        """path: the plain tar. unpacking: how its compressed form ended, if that was
        not whole. joined: metadata of its samples from elsewhere.

        Raises AltogetherError if it is not a file that can be read.
        """
        super().__init__(shard, options or ShardOptions(), joined)
        self._path = path
        self._descriptor = -1
        self._file = FileWindow(-1)
        self._unpacking = unpacking
        self._ending: Ending | None = None
        self._members: TarMembers | None = None
        with _opened(path):
            pass

    @property
    def ending(self) -> Ending:
        if self._ending is None:
            raise RuntimeError("The ending of a tar is known once its samples are read.")
        return self._ending

    def parts(self) -> Iterator[Parts]:
        with _opened(self._path) as self._descriptor:
            self._file = FileWindow(self._descriptor)
            yield from super().parts()

    def content(self, parts: Parts, entry: Entry, limit: int) -> bytes:
        """The bytes of one of the `parts` while these are being iterated. Raises ImageError."""
        return self._read(parts.name(entry), entry, limit)

    def _list(self, groups: SampleGroups) -> None:
        members = TarMembers(self._descriptor)
        try:
            for member in members:
                is_plain = member.kind == "file" and member.end is None and member.sparse is None
                groups.add(member.name, member.offset if is_plain else member, member.size)
        except OSError as error:
            raise _unreadable(self._path, error) from error
        self._members = members
        self._ending = members.ending if self._unpacking is None else self._unpacking

    def _peek(self, name: str, entry: Entry) -> bytes:
        try:
            if isinstance(entry.where, int):
                size = min(entry.size, SNIFF_BYTES)
                return self._bytes(name, entry.where, size)
            return self._special(name, entry.where, self._options.limits.max_bytes)
        except ImageError:
            return b""

    def _look_into(self, entry: Entry) -> None:
        is_tar = (entry.suffix or "").lower().endswith("tar")  # whose headers are meant
        if isinstance(entry.where, int) and self._members is not None and not is_tar:
            try:
                if self._members.is_swallowing(entry.where, entry.size):
                    self._ending = self._members.ending
            except OSError as error:
                raise _unreadable(self._path, error) from error

    def _read(self, name: str, entry: Entry, limit: int) -> bytes:
        if not isinstance(entry.where, int):
            return self._special(name, entry.where, limit)
        check_bytes(entry.size, limit, name)
        data = self._bytes(name, entry.where, entry.size)
        if self._members is not None and self._members.is_swallowing(entry.where, entry.size, data):
            self._ending = self._members.ending
            raise ImageError("damaged", f"{name} holds a header of its tar: bytes of it are lost.")
        return data

    def _bytes(self, name: str, offset: int, size: int) -> bytes:
        try:
            data = self._file.read(size, offset)
            while len(data) < size:  # the system gives at most 2 GB at once
                more = self._file.read(size - len(data), offset + len(data))
                if not more:
                    raise ImageError("truncated", f"{name} is cut off: the shard became shorter.")
                data += more
        except OSError as error:
            raise ImageError("unreadable", f"{name} cannot be read: {reason_of(error)}.") from error
        return data

    def _special(self, name: str, member: Member, limit: int) -> bytes:
        """The content of a member that is no plain file. Raises ImageError."""
        if member.kind == "other":
            raise ImageError("not_a_file", f"{name} is not a regular file.")
        if member.kind == "link":
            target, entry = self._linked(name, member)
            return self._read(target, entry, limit)
        check_bytes(member.size, limit, name)
        if member.end is not None:
            has = max(0, member.end - member.offset)
            raise ImageError(
                "truncated",
                f"{name} is cut off at byte {member.end:,} of its shard, after {has:,} of its "
                f"{member.size:,} bytes.",
            )
        assert member.sparse is not None
        try:
            with open_sparse(self._descriptor, member.sparse) as file:
                return file.read(limit)
        except (OSError, ValueError, tarfile.TarError) as error:
            raise ImageError("damaged", f"{name} cannot be read: {reason_of(error)}.") from error

    def _linked(self, name: str, link: Member) -> tuple[str, Entry]:
        """The member that a link leads to; nothing outside the tar is looked at."""
        target = link.link
        for _ in range(_MAX_LINKS):
            entry = self._groups.find(target) or self._groups.find("./" + target)
            if entry is None:
                break
            if not isinstance(entry.where, Member) or entry.where.kind != "link":
                return target, entry
            target = entry.where.link
        raise ImageError("not_a_file", f"{name} is a link to {link.link}, not in the shard.")


@contextmanager
def _opened(path: str | Path) -> Iterator[int]:
    """The descriptor of a regular file. Raises AltogetherError if there is none."""
    try:
        # O_NONBLOCK: opening a FIFO must not block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise AltogetherError(f"{path} is not a regular file: name a tar.")
        yield descriptor
    finally:
        os.close(descriptor)


def _unreadable(path: str | Path, error: Exception) -> AltogetherError:
    return AltogetherError(f"{path} cannot be read: {reason_of(error)}.")
