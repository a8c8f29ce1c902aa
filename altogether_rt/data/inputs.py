"""Images and alt-texts as a Python caller gives them: one or many, in any of several forms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
    several = cast("Iterable[ImageLike]", images)
    if alts is None:
        yield from ((image, ()) for image in several)
        return
    for image, listed in zip_longest(several, alts, fillvalue=_MISSING):
        if image is _MISSING or listed is _MISSING:
            raise AltogetherError("there must be as many alt-texts as images.")
        yield image, _texts(listed)


def as_rgb(image: ImageLike) -> Image.Image:
    """The image upright, in RGB. Raises ImageError if it cannot be read."""
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    if isinstance(image, (str, Path, bytes)):
        with open_image(image) as opened:
            return opened
    with open_image(image.read()) as opened:
        return opened


def _is_image(images: object) -> bool:
    if isinstance(images, np.ndarray):
        return images.ndim == 3  # (H, W, 3); an array of four dimensions is several
    return isinstance(images, (str, Path, bytes, Image.Image)) or hasattr(images, "read")


def _texts(alts: AltsLike) -> tuple[str, ...]:
    return () if alts is None else (alts,) if isinstance(alts, str) else tuple(alts)
