"""Reads an image file of any supported format as RGB, in bounded memory.

Files come from the web, and nothing that they claim can be trusted. The order of the checks
matters: the kind of file (a FIFO would block), its size, its first bytes, the pixels that its
header claims, and only then a decoder, and only the one for that format.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image, UnidentifiedImageError

from altogether_rt.data.memory import PixelGate
from altogether_rt.data.quiet import QuietPillow
from altogether_rt.data.rgb import to_rgb
from altogether_rt.data.sniff import SNIFF_BYTES, UNSUPPORTED, sniff_format, webp_size
from altogether_rt.errors import ImageError, MissingDependencyError

__all__ = [
    "IMAGE_ERROR_KINDS",
    "ImageLimits",
    "load_image",
    "open_image",
    "to_rgb",
]

#: Every `ImageError.kind` of this module.
IMAGE_ERROR_KINDS: Final = (
    "empty",  # no bytes
    "not_a_file",  # a FIFO, a device, a folder, a broken link
    "not_an_image",  # text, HTML, another kind of file
    "unsupported",  # an image, in a format or mode that is not read
    "too_large",  # more bytes or pixels than the limits
    "truncated",  # the end is missing
    "damaged",  # the decoder refuses it
    "unreadable",  # the system refuses it: permission, I/O error
)

#: Formats whose decoders read the whole file into memory, and the maximum size of such a file.
_READ_WHOLE: Final = frozenset({"AVIF", "HEIF", "WEBP"})
MAX_BYTES_READ_WHOLE: Final = 64 * 1024 * 1024

#: Memory of a pixel of these formats, relative to the others: their decoders hold integer planes,
#: canvases and copies in addition to the image. Measured peaks, in bytes a pixel: RGB JPEG 4,
#: turned upright 8, progressive CMYK JPEG 12, WebP 18, AVIF 14 (8-bit), JPEG 2000 25.
_PIXEL_WEIGHT: Final = {"AVIF": 1.5, "JPEG2000": 2.2, "WEBP": 1.5}

#: EXIF orientation (EXIF 2.32, tag 0x0112) → the operation that turns the image upright.
_ORIENTATION_TAG: Final = 0x0112
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageLimits:
    """Limits of an image's size. The defaults keep decoding under 800 MB for every format."""

    max_pixels: int = 50_000_000  # fewer for some formats (_PIXEL_WEIGHT)
    max_bytes: int = 256 * 1024 * 1024


@dataclass(frozen=True)
class _Source:
    """An open image file and the format that its first bytes indicate."""

    file: BinaryIO
    name: str
    format: str
    num_bytes: int


def load_image(path: str | Path, limits: ImageLimits | None = None) -> Image.Image:
    """The image in `path`: its first frame, in RGB, upright, alpha blended on white.

    The pixels of a plain RGB file are exactly Pillow's. Raises ImageError, with a `kind` of
    IMAGE_ERROR_KINDS.
    """
    with open_image(path, limits) as image:
        return image


@contextmanager
def open_image(
    image_file: str | Path | bytes,
    limits: ImageLimits | None = None,
    gate: PixelGate | None = None,
    *,
    name: str | None = None,
    draft_side: int | None = None,
) -> Iterator[Image.Image]:
    """Like `load_image`, with the `gate` held from before decoding until the block is left.

    image_file: a path, or the bytes of a file. name: for error messages; None: the last part of
    the path.
    draft_side: a JPEG may be decoded at a half, a quarter or an eighth of its size, so long as its
    shorter side stays at least this long. This is faster, and the image reduced from it is
    about the same.
    """
    limits = limits or ImageLimits()
    if name is None:
        name = "the image" if isinstance(image_file, bytes) else os.path.basename(image_file)
    with _open_file(image_file, name, limits) as (file, num_bytes), QuietPillow():
        source = _Source(file, name, _identify(file, name), num_bytes)
        _check_before_header(source, limits)
        image = _read_header(source)
        pixels = _check_pixels(source, image.size, limits)
        if draft_side is not None and source.format == "JPEG":
            image.draft(None, (draft_side, draft_side))  # limits are for the size it claims
        with (gate or PixelGate(pixels)).hold(pixels):
            owner = [image]
            del image  # `_decode` drops what it no longer needs: the only reference is in `owner`
            yield _decode(source, owner)


@contextmanager
def _open_file(
    image_file: str | Path | bytes, name: str, limits: ImageLimits
) -> Iterator[tuple[BinaryIO, int]]:
    """The file, open for reading, and its bytes, if it is regular and of a sensible size."""
    if isinstance(image_file, bytes):
        _check_size(len(image_file), name, limits)
        yield io.BytesIO(image_file), len(image_file)
        return
    with _open_regular(image_file, name, limits) as file:
        yield file, os.fstat(file.fileno()).st_size


@contextmanager
def _open_regular(path: str | Path, name: str, limits: ImageLimits) -> Iterator[BinaryIO]:
    """The file, open for reading, if it is a regular one of a sensible size."""
    try:
        _check_file(
            os.stat(path), name, limits
        )  # before opening: opening a device can have effects
        # O_NONBLOCK: if the file was replaced by a FIFO meanwhile, opening must not block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ImageError("not_a_file", f"{name} does not exist, or is a broken link.") from error
    except (OSError, ValueError) as error:
        raise ImageError("unreadable", f"{name} cannot be opened: {_reason(error)}.") from error
    with os.fdopen(descriptor, "rb") as file:
        _check_file(os.fstat(descriptor), name, limits)
        yield file


def _check_file(status: os.stat_result, name: str, limits: ImageLimits) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("not_a_file", f"{name} is not a regular file.")
    _check_size(status.st_size, name, limits)


def _check_size(num_bytes: int, name: str, limits: ImageLimits) -> None:
    if num_bytes == 0:
        raise ImageError("empty", f"{name} is empty.")
    _check_bytes(num_bytes, limits.max_bytes, name)


def _check_bytes(size: int, limit: int, name: str) -> None:
    if size > limit:
        raise ImageError("too_large", f"{name} has {size:,} bytes; the limit is {limit:,}.")


def _identify(file: BinaryIO, name: str) -> str:
    try:
        head = file.read(SNIFF_BYTES)
        file.seek(0)
    except OSError as error:
        raise ImageError("unreadable", f"{name} cannot be read: {_reason(error)}.") from error
    image_format = sniff_format(head)
    if image_format is None:
        raise ImageError("not_an_image", f"{name} does not begin like an image of a known format.")
    if image_format == UNSUPPORTED:
        raise ImageError("unsupported", f"{name} is in an image format that is not read here.")
    return image_format


def _check_before_header(source: _Source, limits: ImageLimits) -> None:
    """Checks for decoders that allocate memory as soon as they are given the file."""
    if source.format in _READ_WHOLE:
        _check_bytes(source.num_bytes, min(limits.max_bytes, MAX_BYTES_READ_WHOLE), source.name)
    if source.format == "WEBP":
        claimed = webp_size(source.file.read(SNIFF_BYTES))
        source.file.seek(0)
        if claimed is not None:
            _check_pixels(source, claimed, limits)


def _read_header(source: _Source) -> Image.Image:
    """The image, of which only the header has been read."""
    try:
        if source.format == "HEIF":
            return _read_heif_header(source)
        return Image.open(source.file, formats=[source.format])
    except (ImageError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise _decoder_error(source, error, "headers") from error


def _read_heif_header(source: _Source) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        needed = MissingDependencyError("pillow-heif", "heic", f"{source.name} is HEIC, which")
        raise ImageError("unsupported", str(needed)) from error
    opener: Callable[[BinaryIO], Image.Image] = HeifImageFile
    return opener(source.file)  # not registered with Pillow, where plugins are global


def _check_pixels(source: _Source, size: tuple[int, int], limits: ImageLimits) -> int:
    """The number of pixels, weighted by their memory. Raises ImageError if it is too large."""
    width, height = size
    if width < 1 or height < 1:
        raise ImageError("damaged", f"{source.name} claims {width} x {height} pixels.")
    weight = _PIXEL_WEIGHT.get(source.format, 1.0)
    if width * height * weight > limits.max_pixels:
        limit = int(limits.max_pixels / weight)
        raise ImageError(
            "too_large",
            f"{source.name} has {width} x {height} pixels; "
            f"the limit for {source.format} is {limit:,} (see --max-pixels).",
        )
    return max(1, int(width * height * weight))


def _decode(source: _Source, owner: list[Image.Image]) -> Image.Image:
    """Decode the one image in `owner`, which is removed from the list."""
    image = owner.pop()
    try:
        image.load()
        orientation = _orientation(image)
        image = to_rgb(image)
        if orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[orientation])
    except KeyboardInterrupt:
        raise
    except Exception as error:
        raise _decoder_error(source, error, "pixels") from error
    image.info = {}  # so that nothing downstream turns it upright again
    return image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 if EXIF is absent or cannot be parsed."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except (
        Exception
    ):  # the file decides what the parser raises: struct, Type, Value, OS, Syntax errors
        return 1
    return orientation if isinstance(orientation, int) else 1


def _decoder_error(source: _Source, error: Exception, part: str) -> ImageError:
    """The ImageError for a decoder's exception."""
    name, image_format = source.name, source.format
    if isinstance(error, (MemoryError, Image.DecompressionBombError)):
        return ImageError("too_large", f"{name} claims more pixels than can be decoded.")
    if isinstance(error, OSError) and error.errno is not None:
        return ImageError("unreadable", f"{name} cannot be read: {_reason(error)}.")
    if isinstance(error, UnidentifiedImageError):
        return ImageError("damaged", f"{name} has broken {image_format} headers.")
    reason = _reason(error)
    if isinstance(error, EOFError) or "truncated" in reason.lower():
        return ImageError("truncated", f"{name} is cut off within its {image_format} {part}.")
    return ImageError("damaged", f"{name} has broken {image_format} {part}: {reason}.")


def _reason(error: Exception) -> str:
    """A decoder's own message, cleaned to fit into a sentence."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(words).split())[:160].rstrip(".")
