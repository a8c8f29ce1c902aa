"""Images and alt-texts as a Python caller gives them: one or many, in any of several forms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from altogether_rt.data.images import open_image, to_rgb
from altogether_rt.errors import AltogetherError

__all__ = ["AltsLike", "ImageLike", "as_rgb", "image_pairs"]

#: A path, the bytes of a file, an open file, a Pillow image, or pixels (H, W, 3).
ImageLike = str | Path | bytes | BinaryIO | Image.Image | NDArray[np.uint8]
AltsLike = str | Sequence[str] | None

_MISSING: Any = object()


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


def _check_kinds(images: object, alts: object) -> None:
    """Whatever the annotations say, a caller may give anything."""
    if not isinstance(images, Iterable):
        raise _no_image(images)
    if alts is not None and (isinstance(alts, Mapping) or not isinstance(alts, Iterable)):
        raise AltogetherError("alts must be a list with one entry per image.")


def as_rgb(image: ImageLike) -> Image.Image:
    """The image upright, in RGB.

    Raises ImageError if it cannot be read, AltogetherError for what is no image at all.
    """
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise AltogetherError(
                f"pixels are uint8 of shape (H, W, 3), and these are {image.dtype} of shape "
                f"{image.shape}: convert them, or give a Pillow image."
            )
        return Image.fromarray(image)
    if isinstance(image, (str, Path, bytes)):
        with open_image(image) as opened:
            return opened
    if not hasattr(image, "read"):
        raise _no_image(image)
    with open_image(image.read()) as opened:
        return opened


def _no_image(value: object) -> AltogetherError:
    kind = type(value).__name__
    if isinstance(value, (list, tuple)):
        return AltogetherError(f"one of the images is a {kind}: give one list of images.")
    return AltogetherError(
        f"a value of type {kind} is not an image: give a path, the bytes of a file, an open file, "
        "a Pillow image, or pixels."
    )


def _is_image(images: object) -> bool:
    if isinstance(images, np.ndarray):
        return images.ndim == 3  # (H, W, 3); an array of four dimensions is several
    return isinstance(images, (str, Path, bytes, Image.Image)) or hasattr(images, "read")


def _texts(alts: AltsLike) -> tuple[str, ...]:
    if alts is None or isinstance(alts, str):
        return () if alts is None else (alts,)
    listed: object = alts  # whatever the annotation says
    if not isinstance(listed, Iterable) or not all(isinstance(text, str) for text in listed):
        raise AltogetherError("the alt-texts of an image are a text or a list of texts.")
    return tuple(alts)
