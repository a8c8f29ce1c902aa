"""An image file about to be decoded, and what a decoder's exception says about it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import BinaryIO, Final

from PIL import Image, UnidentifiedImageError

from altogether_rt.data.images.files import reason_of
from altogether_rt.data.images.limits import BYTES_PER_PIXEL, weighted_pixels
from altogether_rt.data.images.prepared import Prepared
from altogether_rt.errors import ImageError

__all__ = ["Source", "decoder_error"]

#: Decoders' words for a lack of memory; -9 is Pillow's.
_NO_MEMORY: Final = re.compile(r"out of memory|memory alloc|alloc\w* fail|error -9$", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """An open image file, and what is known of it before it is decoded."""

    file: BinaryIO
    name: str
    format: str
    num_bytes: int
    prepared: Prepared
    draft: tuple[int, int] | None


def decoder_error(source: Source, error: Exception, part: str) -> ImageError:
    """The ImageError for a decoder's exception."""
    name, image_format, variety = source.name, source.format, source.prepared.variety
    reason = reason_of(error)
    if isinstance(error, Image.DecompressionBombError):
        return ImageError("too_large", f"{name} claims more pixels than can be decoded.")
    if isinstance(error, MemoryError) or _NO_MEMORY.search(reason) or _memory_is_short(source):
        return ImageError("too_large", f"{name} needs more memory than there is.")
    if isinstance(error, OSError) and error.errno is not None:
        return ImageError("unreadable", f"{name} cannot be read: {reason}.")
    is_cut = isinstance(error, EOFError) or "truncated" in reason.lower()
    if variety and not is_cut and (part == "headers" or image_format in ("JPEG", "JPEG2000")):
        return ImageError("unsupported", f"{name} is a {variety}, which is not read here.")
    if isinstance(error, UnidentifiedImageError):
        return ImageError("damaged", f"{name} has broken {image_format} headers.")
    if is_cut:
        return ImageError("truncated", f"{name} is cut off within its {image_format} {part}.")
    return ImageError("damaged", f"{name} has broken {image_format} {part}: {reason}.")


def _memory_is_short(source: Source) -> bool:
    """Whether there is too little memory for this image, whatever its decoder said.

    Several decoders report it as broken data. Memory that is not touched costs nothing.
    """
    size = source.prepared.size
    if size is None:
        return False
    pixels = weighted_pixels(source.format, size, source.num_bytes, source.prepared.extra_bytes)
    try:
        bytearray(min(pixels, 1 << 27) * BYTES_PER_PIXEL)  # zeroed by the system, not touched
    except MemoryError:
        return True
    return False
