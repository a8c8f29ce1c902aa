"""Images and alt-texts as a Python caller gives them: one or many, in any of several forms."""

from __future__ import annotations

import io
import os
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from altogether_rt.data.images import open_image, upright_rgb
from altogether_rt.errors import AltogetherError, ImageError, reason

__all__ = ["AltsLike", "ImageLike", "as_rgb", "image_pair", "image_pairs"]

#: A path, the bytes of a file, an open file, a Pillow image, or pixels (H, W, 3).
ImageLike: TypeAlias = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryIO
    | Image.Image
    | NDArray[np.uint8]
)
#: One alt-text of an image, several, or none.
AltsLike: TypeAlias = str | Sequence[str] | None

_MISSING: Any = object()
_BYTES = (bytes, bytearray, memoryview)
_URL = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)


def image_pairs(
    images: ImageLike | Iterable[ImageLike], alts: AltsLike | Iterable[AltsLike]
) -> Iterator[tuple[ImageLike, tuple[str, ...]]]:
    """Each image with its alt-texts. A single image may stand by itself, as may its alt-texts.

    Raises AltogetherError if there are more images than alt-texts or the other way round.
    """
    if _is_image(images):
        yield cast(ImageLike, images), _texts(cast(AltsLike, alts))
        return
    if isinstance(alts, str):
        raise AltogetherError(
            "alts is a single text, but there may be several images: give a list with one entry "
            "per image."
        )
    _check_kinds(images, alts)
    several = cast("Iterable[ImageLike]", images)
    if alts is None:
        yield from ((image, ()) for image in several)
        return
    for image, listed in zip_longest(several, alts, fillvalue=_MISSING):
        if image is _MISSING or listed is _MISSING:
            raise AltogetherError(
                "there must be as many alt-texts as images; several of one image are a list in "
                "the list: [[…]]."
            )
        yield image, _texts(listed)


def image_pair(image: ImageLike, alts: AltsLike) -> tuple[ImageLike, tuple[str, ...]]:
    """One image with its alt-texts. Raises AltogetherError if it is none, or several."""
    if not _is_image(image):
        raise _no_image(image)
    return image, _texts(alts)


def _check_kinds(images: object, alts: object) -> None:
    """Whatever the annotations say, a caller may give anything."""
    if isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise _no_image(images)
    if alts is not None and (isinstance(alts, Mapping) or not isinstance(alts, Iterable)):
        raise AltogetherError("alts must be a list with one entry per image.")


def as_rgb(image: ImageLike) -> Image.Image:
    """The image upright, in RGB.

    Raises ImageError if it cannot be read, AltogetherError for what is no image at all.
    """
    if isinstance(image, Image.Image):
        return upright_rgb(image)
    if isinstance(image, np.ndarray):
        return upright_rgb(Image.fromarray(_checked_pixels(image)))
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        if _URL.match(path):
            raise ImageError("not_a_file", f"{path[:80]} is a URL: fetch it, and give its bytes.")
        with open_image(path) as opened:
            return opened
    with open_image(_read(image)) as opened:
        return opened


def _checked_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    shape, last = pixels.shape, pixels.shape[-1:]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or last != (3,):
        is_chw = pixels.ndim == 3 and shape[0] == 3
        todo = "move the channels last, .transpose(1, 2, 0)" if is_chw else "convert them"
        raise AltogetherError(
            f"pixels are uint8 of shape (H, W, 3), and these are {pixels.dtype} of shape {shape}: "
            f"{todo}, or give a Pillow image."
        )
    if not pixels.size:
        raise ImageError("damaged", f"an image of shape {shape} has no pixels.")
    return pixels


def _read(image: bytes | bytearray | memoryview | BinaryIO) -> bytes:
    given: object = image  # whatever the annotation says
    if isinstance(image, _BYTES):
        return bytes(image)
    if not hasattr(image, "read"):
        raise _no_image(image)
    if isinstance(given, io.TextIOBase):
        raise AltogetherError("a file of text is not an image: open it with mode 'rb'.")
    try:
        return image.read()
    except OSError as error:
        raise ImageError("unreadable", f"the image cannot be read: {reason(error)}.") from error


def _no_image(value: object) -> AltogetherError:
    kind = type(value).__name__
    if isinstance(value, (list, tuple)):
        return AltogetherError(f"one of the images is a {kind}: give one list of images.")
    return AltogetherError(
        f"a value of type {kind} is not an image: give a path, the bytes of a file, an open file, "
        "a Pillow image, or a NumPy array of shape (H, W, 3)."
    )


def _is_image(images: object) -> bool:
    if isinstance(images, np.ndarray):
        # An array of four dimensions is several images; one of texts is a list of paths.
        return images.ndim in (2, 3)
    kinds = (str, os.PathLike, *_BYTES, Image.Image)
    return isinstance(images, kinds) or hasattr(images, "read")


def _texts(alts: AltsLike) -> tuple[str, ...]:
    if alts is None or isinstance(alts, str):
        return () if alts is None else (alts,)
    listed: object = alts  # whatever the annotation says
    if (
        isinstance(listed, Mapping)
        or not isinstance(listed, Iterable)
        or not all(isinstance(text, str) for text in alts)
    ):
        raise AltogetherError(
            "the alt-texts of an image are a text, a list of texts, or none, and one is "
            f"{reprlib.repr(listed)}."
        )
    return tuple(alts)
