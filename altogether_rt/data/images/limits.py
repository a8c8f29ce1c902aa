"""What an image may cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = [
    "BYTES_PER_PIXEL",
    "IMAGE_ERROR_KINDS",
    "MAX_BYTES_READ_WHOLE",
    "ImageLimits",
    "weighted_pixels",
]

#: Every `ImageError.kind` of this package.
IMAGE_ERROR_KINDS: Final = (
    "empty",  # no bytes
    "not_a_file",  # a FIFO, a device, a folder, a broken link
    "not_an_image",  # text, HTML, another kind of file
    "unsupported",  # an image, in a format or a variety that is not read
    "too_large",  # more bytes, pixels or memory than the limits
    "truncated",  # the end is missing
    "damaged",  # the decoder refuses it
    "unreadable",  # the system refuses it: permission, I/O error
    "missing",  # a sample of a shard has texts and no image
    "duplicate",  # a sample of this key came before in the same shard
)

#: Formats whose decoders read the whole file into memory, and the maximum size of such a file.
#: Pillow parses all EXIF of an AVIF when it opens it: up to 15 bytes of memory for each of its own.
MAX_BYTES_READ_WHOLE: Final = {
    "AVIF": 32 * 1024 * 1024,
    "HEIF": 64 * 1024 * 1024,
    "WEBP": 64 * 1024 * 1024,
}

#: Memory that the limit of pixels allows for each: 50 million are 800 MB.
BYTES_PER_PIXEL: Final = 16

#: Memory of a pixel of these formats, relative to the others: their decoders hold integer planes,
#: canvases and copies in addition to the image. Measured peaks, in bytes a pixel: RGB JPEG 4,
#: turned upright 8, progressive CMYK JPEG 12, WebP 18, AVIF 14 (8-bit), JPEG 2000 25.
_PIXEL_WEIGHT: Final = {"AVIF": 1.5, "JPEG2000": 2.2, "WEBP": 1.5}

#: Memory of a byte of the file, relative to a pixel's.
_BYTE_WEIGHT: Final = {"AVIF": 1.0, "HEIF": 0.25, "WEBP": 0.25}

#: A row costs a pointer and an allocation beside its pixels: one of fewer pixels counts as this
#: many. Rows become columns when an image is turned upright.
_MIN_SIDE: Final = 8


@dataclass(frozen=True)
class ImageLimits:
    """Limits of an image's size. The defaults keep decoding under 800 MB for every format."""

    max_pixels: int = 50_000_000  # fewer for some formats (_PIXEL_WEIGHT)
    max_bytes: int = 256 * 1024 * 1024


def weighted_pixels(
    image_format: str, size: tuple[int, int], num_bytes: int, extra_bytes: int
) -> int:
    """What decoding costs, in pixels of BYTES_PER_PIXEL.

    size: (width, height). num_bytes: of the file. extra_bytes: what the decoder allocates beside
    the pixels.
    """
    width, height = size
    long, short = max(width, height), min(width, height)
    counted = long * max(short, _MIN_SIDE) if long > 1 << 16 else width * height
    pixels = counted * _PIXEL_WEIGHT.get(image_format, 1.0)
    pixels += num_bytes * _BYTE_WEIGHT.get(image_format, 0.0) if num_bytes > 1 << 16 else 0
    return max(1, int(pixels) + extra_bytes // BYTES_PER_PIXEL)
