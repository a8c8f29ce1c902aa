"""What is found out about a file before its decoder sees it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from altogether_rt.data.images.files import Part, spliced

__all__ = ["MAX_METADATA_BYTES", "Prepared", "RefusedError", "Scan", "merged"]

#: Maximum size of an EXIF or XMP block that is looked into: more than a JPEG segment can hold.
MAX_METADATA_BYTES: Final = 64 * 1024

#: Maximum number of chunks, segments or blocks of a file that are walked through.
_MAX_STEPS: Final = 1_000_000


class RefusedError(Exception):
    """The file is not given to a decoder. The message completes "NAME …"."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class Prepared:
    """What is known of a file from its structure alone."""

    parts: Sequence[Part] | None = None  # what the decoder reads; None: the file as it is
    size: tuple[int, int] | None = None  # (width, height) the decoder allocates at least
    extra_bytes: int = 0  # what it allocates beside the pixels
    variety: str = ""  # names a variety that decoders may not know: "12-bit JPEG"
    notes: tuple[str, ...] = ()  # what was wrong and did not matter
    white: float | None = None  # of a single channel of more than 8 bits
    inverted: bool = False  # the value 0 is white, and the decoder leaves that as it is
    unsigned: bool = False  # 32-bit values that the decoder takes for signed ones
    fields: dict[int, tuple[int, ...]] = field(default_factory=dict)  # of a TIFF


class Scan:
    """Reads a file's structure; every read counts, so that a walk through it ends."""

    def __init__(self, file: BinaryIO, num_bytes: int) -> None:
        self._file = file
        self.num_bytes = num_bytes
        self._steps = 0

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes at `offset`; fewer at the end of the file."""
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise RefusedError("too_large", f"has more than {_MAX_STEPS:,} parts")
        if offset >= self.num_bytes:
            return b""
        self._file.seek(offset)
        return self._file.read(count)

    def view(self, parts: Sequence[Part]) -> Scan:
        """Some ranges of the file as one; its reads count as the whole file's."""
        num_bytes = sum(len(p) if isinstance(p, bytes) else max(0, p[1] - p[0]) for p in parts)
        view = Scan(spliced(self._file, parts), num_bytes)
        view._steps = self._steps
        return view

    def unpack(self, layout: str, offset: int) -> tuple[int, ...] | None:
        """The integers at `offset`; None if the file ends before."""
        count = struct.calcsize(layout)
        data = self.read(offset, count)
        return struct.unpack(layout, data) if len(data) == count else None


def merged(parts: Sequence[Part]) -> list[Part]:
    """The same parts, ranges that follow each other joined."""
    result: list[Part] = []
    for part in parts:
        last = result[-1] if result else b""
        if isinstance(part, tuple) and isinstance(last, tuple) and last[1] == part[0]:
            result[-1] = (last[0], part[1])
        else:
            result.append(part)
    return result
