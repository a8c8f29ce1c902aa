"""A hash of an image's file, by which a later run knows whether it is still the same image."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from altogether_rt.data.images.files import open_file
from altogether_rt.data.images.limits import ImageLimits
from altogether_rt.data.images.prepared import Scan
from altogether_rt.data.xmp.layout import find_xmp
from altogether_rt.errors import ImageError

__all__ = ["file_hash", "is_file_hash"]

#: Hexadecimal digits of SHA-256 that are kept: 64 bits, against accidents and not against forgers.
_NUM_DIGITS: Final = 16

_HASH: Final = re.compile(f"[0-9a-f]{{{_NUM_DIGITS}}}")

_BUFFER_BYTES: Final = 256 * 1024


def file_hash(image_file: Path | bytes, limits: ImageLimits | None = None) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a file without its XMP.

    Ratings, keywords and alt-texts are kept in XMP, so changing them does not make another image of
    it. A file without XMP (JPEG, PNG and any other format; WebP is hashed from its first chunk on)
    is hashed whole. "" if it is not a regular file, is larger than `limits` allow, or cannot be
    read.
    """
    try:
        with open_file(image_file, "", limits or ImageLimits()) as (file, num_bytes):
            layout = find_xmp(Scan(file, num_bytes))
            digest = hashlib.sha256()
            for part in _ranges(layout.besides_image if layout else (), num_bytes):
                _update(digest, file, *part)
            return digest.hexdigest()[:_NUM_DIGITS]
    except (ImageError, OSError):
        return ""


def is_file_hash(value: object) -> bool:
    """Whether a row's `image_hash` is one of these: other programs may call others so."""
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _ranges(left_out: tuple[tuple[int, int], ...], num_bytes: int) -> Iterator[tuple[int, int]]:
    """What is between the ranges that are left out, and after them."""
    start = 0
    for begin, end in sorted(left_out):
        yield start, begin
        start = end
    yield start, num_bytes


def _update(digest: hashlib._Hash, file: BinaryIO, start: int, end: int) -> None:
    file.seek(start, os.SEEK_SET)
    left = end - start
    while left > 0 and (data := file.read(min(left, _BUFFER_BYTES))):
        digest.update(data)
        left -= len(data)
