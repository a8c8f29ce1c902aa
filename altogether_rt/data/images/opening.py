"""Opens one image: checks its structure, waits for its share of memory, decodes it.

Files come from the web, and nothing that they claim can be trusted. The order of the checks
matters: the kind of file (a FIFO would block), its size, its first bytes, what its structure makes
a decoder allocate, and only then a decoder, only the one for that format, and only on the parts of
the file that the pixels need.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image

from altogether_rt.data.images.blocks import (
    prepare_gif,
    prepare_jpeg2000,
    prepare_ppm,
    prepare_psd,
    prepare_webp,
)
from altogether_rt.data.images.files import check_bytes, open_file, reason_of, spliced
from altogether_rt.data.images.heif import prepare_heif
from altogether_rt.data.images.jpeg import complete_jpeg, prepare_jpeg
from altogether_rt.data.images.limits import (
    BYTES_PER_PIXEL,
    MAX_BYTES_READ_WHOLE,
    ImageLimits,
    weighted_pixels,
)
from altogether_rt.data.images.png import prepare_png
from altogether_rt.data.images.prepared import MAX_METADATA_BYTES, Prepared, RefusedError, Scan
from altogether_rt.data.images.source import Source, decoder_error
from altogether_rt.data.images.tiff import prepare_tiff
from altogether_rt.data.memory import PixelGate
from altogether_rt.data.quiet import QuietPillow, silence_libtiff
from altogether_rt.data.rgb import to_rgb
from altogether_rt.data.sniff import SNIFF_BYTES, UNSUPPORTED, sniff_format, unsupported_name
from altogether_rt.errors import ImageError, MissingDependencyError

__all__ = ["image_notes", "load_image", "open_image", "upright_rgb"]

_PREPARE: Final[dict[str, Callable[[Scan], Prepared]]] = {
    "AVIF": prepare_heif,
    "GIF": prepare_gif,
    "HEIF": prepare_heif,
    "JPEG": prepare_jpeg,
    "JPEG2000": prepare_jpeg2000,
    "PNG": prepare_png,
    "PPM": prepare_ppm,
    "PSD": prepare_psd,
    "TIFF": prepare_tiff,
    "WEBP": prepare_webp,
}

#: First bytes in which the format of a file that no decoder here reads is looked for.
_NAME_BYTES: Final = 4096

#: Key of `Image.info` for what was wrong with the file and did not matter.
_NOTES: Final = "altogether_notes"

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


def load_image(path: str | Path, limits: ImageLimits | None = None) -> Image.Image:
    """The image in `path`: its first frame, in RGB, upright, alpha blended on white.

    The pixels of a plain RGB file are exactly Pillow's. Raises ImageError, with a `kind` of
    IMAGE_ERROR_KINDS.
    """
    with open_image(path, limits) as image:
        return image


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image that somebody opened or made with Pillow, as `load_image` would give it.

    Its pixels may not have been read yet, and are then decoded by Pillow alone. Raises ImageError
    if that fails, or if there are none.
    """
    name = os.path.basename(str(getattr(image, "filename", ""))) or "the image"
    if not all(image.size):
        raise ImageError("damaged", f"{name} has {image.width} x {image.height} pixels.")
    try:
        with QuietPillow():
            image.load()
            orientation = _orientation(image)
            image = to_rgb(image)
        return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        kind = "truncated" if "truncated" in str(error) else "damaged"
        raise ImageError(kind, f"{name} cannot be read: {reason_of(error)}.") from error


def image_notes(image: Image.Image) -> tuple[str, ...]:
    """What was wrong with the file of an image from `open_image` and did not cost a pixel.

    For example "it ends without an end marker"; usually nothing.
    """
    notes = image.info.get(_NOTES, ())
    return notes if isinstance(notes, tuple) else ()


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
    gate = gate or PixelGate(limits.max_pixels)
    if name is None:
        name = "the image" if isinstance(image_file, bytes) else os.path.basename(image_file)
    silence_libtiff()
    with open_file(image_file, name, limits) as (file, num_bytes), QuietPillow():
        source = _source(file, name, num_bytes, limits)
        pixels = _check_pixels(source, source.prepared.size or _peek(source, gate), limits)
        if draft_side is not None and source.format == "JPEG":  # limits are for the size it claims
            source = replace(source, draft=(draft_side, draft_side))
        with gate.hold(pixels):
            image = _read_header(source)
            _check_pixels(source, image.size, limits)
            owner = [image]
            del image  # `_decode` drops what it no longer needs: the only reference is in `owner`
            yield _decode(source, owner)


def _source(file: BinaryIO, name: str, num_bytes: int, limits: ImageLimits) -> Source:
    image_format = _identify(file, name)
    if image_format in MAX_BYTES_READ_WHOLE:
        check_bytes(num_bytes, min(limits.max_bytes, MAX_BYTES_READ_WHOLE[image_format]), name)
    prepare = _PREPARE.get(image_format)
    try:
        prepared = prepare(Scan(file, num_bytes)) if prepare else Prepared()
    except RefusedError as error:
        raise ImageError(error.kind, f"{name} {error}.") from error
    except OSError as error:
        raise ImageError("unreadable", f"{name} cannot be read: {reason_of(error)}.") from error
    file.seek(0)
    if prepared.parts is not None and list(prepared.parts) != [(0, num_bytes)]:
        file = spliced(file, prepared.parts)
    return Source(file, name, image_format, num_bytes, prepared, None)


def _identify(file: BinaryIO, name: str) -> str:
    try:
        head = file.read(_NAME_BYTES)
        file.seek(0)
    except OSError as error:
        raise ImageError("unreadable", f"{name} cannot be read: {reason_of(error)}.") from error
    image_format = sniff_format(head[:SNIFF_BYTES])
    if image_format is not None and image_format != UNSUPPORTED:
        return image_format
    other = unsupported_name(head, name)
    if other is not None:
        raise ImageError("unsupported", f"{name} is {other}, which is not read here.")
    if image_format == UNSUPPORTED:
        raise ImageError("unsupported", f"{name} is in an image format that is not read here.")
    raise ImageError("not_an_image", f"{name} does not begin like an image of a known format.")


def _peek(source: Source, gate: PixelGate) -> tuple[int, int]:
    """The size by the decoder itself, which may read the whole file for it."""
    with gate.hold(weighted_pixels(source.format, (1, 1), source.num_bytes, 0)):
        return _read_header(source).size


def _read_header(source: Source) -> Image.Image:
    """The image, of which only the header has been read."""
    try:
        source.file.seek(0)
        if source.format == "HEIF":
            return _read_heif_header(source)
        image = Image.open(source.file, formats=[source.format])
        if source.draft is not None:
            image.draft(None, source.draft)
        return image
    except (ImageError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise decoder_error(source, error, "headers") from error


def _read_heif_header(source: Source) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        needed = MissingDependencyError("pillow-heif", "heic", f"{source.name} is HEIC, which")
        raise ImageError("unsupported", str(needed)) from error
    opener: Callable[[BinaryIO], Image.Image] = HeifImageFile
    return opener(source.file)  # not registered with Pillow, where plugins are global


def _check_pixels(source: Source, size: tuple[int, int], limits: ImageLimits) -> int:
    """The number of pixels, weighted by their memory. Raises ImageError if it is too large."""
    width, height = size
    if width < 1 or height < 1:
        raise ImageError("damaged", f"{source.name} claims {width} x {height} pixels.")
    extra_bytes = source.prepared.extra_bytes
    pixels = weighted_pixels(source.format, size, source.num_bytes, 0)
    if pixels > limits.max_pixels:
        limit = int(limits.max_pixels * width * height / pixels)
        raise ImageError(
            "too_large",
            f"{source.name} has {width} x {height} pixels; "
            f"the limit for {source.format} is {limit:,} (see --max-pixels).",
        )
    total = pixels + extra_bytes // BYTES_PER_PIXEL
    # Small limits are for pixels: what is allocated beside them may always be 64 MB.
    if extra_bytes > 1 << 26 and total > limits.max_pixels:
        raise ImageError(
            "too_large",
            f"{source.name} has {width} x {height} pixels, but its {source.format} structure "
            f"would take {extra_bytes:,} bytes of memory (see --max-pixels).",
        )
    return total


def _decode(source: Source, owner: list[Image.Image]) -> Image.Image:
    """Decode the one image in `owner`, which is removed from the list."""
    image = owner.pop()
    notes = source.prepared.notes
    try:
        try:
            image.load()
        except OSError as error:
            if source.format != "JPEG" or "truncated" not in str(error):
                raise
            image = complete_jpeg(source.file, source.draft)
            notes = (*notes, "it ends without an end marker")
        orientation = _orientation(image)
        prepared = source.prepared
        image = to_rgb(
            image, white=prepared.white, inverted=prepared.inverted, unsigned=prepared.unsigned
        )
        if orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[orientation])
    except KeyboardInterrupt:
        raise
    except Exception as error:
        raise decoder_error(source, error, "pixels") from error
    image.info = {_NOTES: notes} if notes else {}  # nothing downstream turns it upright again
    return image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 if EXIF is absent, cannot be parsed, or is absurdly large."""
    if len(image.info.get("exif") or b"") > MAX_METADATA_BYTES * 16:
        return 1  # each value of a tag becomes an object: gigabytes
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except (
        Exception
    ):  # the file decides what the parser raises: struct, Type, Value, OS, Syntax errors
        return 1
    return orientation if isinstance(orientation, int) else 1
