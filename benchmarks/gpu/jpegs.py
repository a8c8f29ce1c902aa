"""JPEG files as the web has them: of many sizes, photographs or what compresses like them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

__all__ = ["MEDIAN_SIDE", "make_jpegs", "other_pixels"]

#: Longer side in pixels of half of the images.
MEDIAN_SIDE = 800
#: Of the logarithm of the longer side; its bounds.
_SPREAD, _LEAST, _MOST = 0.45, 240, 4000
#: Shares of aspect ratios: 4:3, 3:2, 16:9 and 1:1, a quarter of them upright.
_RATIOS = (4 / 3, 3 / 2, 3 / 2, 16 / 9, 1.0)
#: Quality settings, and the share of files that are progressive.
_QUALITIES, _PROGRESSIVE = (75, 80, 85, 85, 90, 95), 0.3
_GRAIN = 5.0  # standard deviation of what a sensor adds, of 255


def make_jpegs(
    folder: Path, num: int, photographs: Sequence[Path] = (), seed: int = 0
) -> list[Path]:
    """Write `num` files to `folder`; the same ones for the same arguments.

    photographs: what they show, each cut and resized; without them, smooth shapes. Grain is added
    to both, as resizing takes a photograph's own away and files would be too small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = []
    for index in range(num):
        width, height = _size(rng)
        if photographs:
            image = _cut(photographs[index % len(photographs)], width, height)
        else:
            image = _shapes(rng, width, height)
        pixels = np.asarray(image, np.float32) + _grain(rng, width, height)
        grained = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        data = io.BytesIO()
        quality = int(rng.choice(_QUALITIES))
        grained.save(data, "JPEG", quality=quality, progressive=bool(rng.random() < _PROGRESSIVE))
        path = folder / f"{index:05d}.jpg"
        path.write_bytes(data.getvalue())
        paths.append(path)
    return paths


def other_pixels(jpeg: bytes, number: int) -> bytes:
    """The same image with other pixels, and as long to decode: for each number from 1 to 15 the
    average of a block is multiplied by another step of the first quantisation table."""
    segment = jpeg.index(b"\xff\xdb") + 4  # behind marker and length: precision and number, steps
    assert jpeg[segment] >> 4 == 0, "its steps are bytes"
    step = jpeg[segment + 1] + number
    assert step < 256
    return jpeg[: segment + 1] + bytes([step]) + jpeg[segment + 2 :]


def _size(rng: np.random.Generator) -> tuple[int, int]:
    longer = int(np.clip(MEDIAN_SIDE * np.exp(_SPREAD * rng.normal()), _LEAST, _MOST))
    shorter = int(longer / rng.choice(_RATIOS))
    return (shorter, longer) if rng.random() < 0.25 else (longer, shorter)


def _cut(path: Path, width: int, height: int) -> Image.Image:
    """The middle of a photograph, in the size wanted."""
    with Image.open(path) as image:
        image = image.convert("RGB")
        scale = max(width / image.width, height / image.height)
        reduced = image.resize((round(image.width * scale) + 1, round(image.height * scale) + 1))
    left, top = (reduced.width - width) // 2, (reduced.height - height) // 2
    return reduced.crop((left, top, left + width, top + height))


def _shapes(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height)).filter(ImageFilter.GaussianBlur(2))


def _grain(rng: np.random.Generator, width: int, height: int) -> NDArray[np.float32]:
    grain = rng.normal(0, _GRAIN, (height, width, 1)).astype(np.float32)
    return np.repeat(grain, 3, axis=2)
