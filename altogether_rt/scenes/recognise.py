"""Tells scenes from other images, by the colours of their backgrounds."""

from __future__ import annotations

import functools
import random
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from altogether_rt.scenes.background import paint_background
from altogether_rt.scenes.draw import IMAGE_SIZE
from altogether_rt.scenes.world import BACKGROUNDS

__all__ = ["background_share", "is_scene"]

#: Share of a background's pixels that a colour must have to count as one of its colours.
_MIN_COLOUR_SHARE: Final = 0.01

#: Not counted: it is a scene's snow, and the ground of most drawings, logos and screenshots.
_WHITE: Final = 0xFFFFFF

#: Only every so many pixels along each side are looked at.
_EVERY: Final = 4

#: Share of the pixels that have a background's colours, exactly, in a scene. The lowest of 4,000
#: scenes (2,000 of seed 21, split test, and 2,000 of seed 22, split train) was 0.64, the highest of
#: 159 photographs and drawings, cut and reduced to a scene's size, 0.001 (2026-11-26).
_MIN_SCENE_SHARE: Final = 0.3


def is_scene(image: Image.Image) -> bool:
    """Whether `image`, in RGB, is as `altogether-rt scenes` draws it."""
    return image.size == (IMAGE_SIZE, IMAGE_SIZE) and background_share(image) >= _MIN_SCENE_SHARE


def background_share(image: Image.Image) -> float:
    """Share of the pixels whose colour is exactly one of a scene's background; RGB.

    Every fourth pixel is looked at, along each side: many images are asked about before a run.
    """
    return float(np.isin(_codes(image, _EVERY), _background_colours()).mean())


@functools.cache
def _background_colours() -> NDArray[np.int64]:
    found: set[int] = set()
    for name in BACKGROUNDS:
        image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE))
        paint_background(ImageDraw.Draw(image), name, IMAGE_SIZE, random.Random(0))
        colours, counts = np.unique(_codes(image), return_counts=True)
        found.update(colours[counts >= _MIN_COLOUR_SHARE * IMAGE_SIZE**2].tolist())
    return np.array(sorted(found - {_WHITE}), np.int64)


def _codes(image: Image.Image, every: int = 1) -> NDArray[np.int64]:
    """A number for the colour of every so many pixels along each side, (H / every * W / every,)."""
    pixels = np.asarray(image)[::every, ::every].reshape(-1, 3).astype(np.int64)
    return (pixels[:, 0] << 16) | (pixels[:, 1] << 8) | pixels[:, 2]
