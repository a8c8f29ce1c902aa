"""Converts every mode that Pillow decodes to RGB, without clipping and without large copies.

An image is converted in bands of rows, so that only the decoded image and its RGB copy are in
memory: at most 8 bytes per pixel.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["to_rgb"]

#: Number of pixels converted at a time.
BAND_PIXELS = 1 << 20

Convert = Callable[[Image.Image], Image.Image]


def to_rgb(
    image: Image.Image,
    *,
    white: float | None = None,
    inverted: bool = False,
    unsigned: bool = False,
) -> Image.Image:
    """`image` (loaded) in RGB: alpha on white, 16-bit and float scaled to 8-bit.

    An RGB image without transparency is returned as it is. The options are for one channel of
    more than 8 bits. white: its value; None: by the mode, see `_grey_converter`. inverted: 0 is
    white instead. unsigned: mode "I" holds unsigned values. Raises ValueError for a mode that
    Pillow cannot convert.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _in_bands(image, _grey_converter(image, white, inverted, unsigned))
    if image.mode == "LAB":
        return _in_bands(image, _lab_converter())
    if image.has_transparency_data:
        return _in_bands(image, _on_white)
    # Pillow converts palettes and the other modes row by row, without an intermediate copy.
    return image.convert("RGB")


def _in_bands(image: Image.Image, convert: Convert) -> Image.Image:
    """RGB image of the same size, `convert` applied to a band of rows at a time."""
    width, height = image.size
    rows = max(1, BAND_PIXELS // max(1, width))
    result = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(height, top + rows)))
        result.paste(convert(band), (0, top))
    return result


def _on_white(band: Image.Image) -> Image.Image:
    rgba = band.convert(
        "RGBA"
    )  # handles palettes, a single transparent colour and premultiplied alpha
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
    return white


def _grey_converter(
    image: Image.Image, white: float | None, inverted: bool, unsigned: bool
) -> Convert:
    """Converter for one channel of more than 8 bits, where black is 0.

    White is 65535 for integers (1 for floats), or the brightest value of the image if that is
    higher: a scientific TIFF has no agreed white.
    """
    transparent = image.info.get("transparency")
    white = white or _white(image, unsigned)

    def convert(band: Image.Image) -> Image.Image:
        values = _values(band, unsigned)
        if white == 65535.0:  # the high byte, as Pillow does for 16-bit colour
            grey = (np.clip(values, 0, 65535).astype(np.uint16) >> 8).astype(np.uint8)
        else:
            finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=white, neginf=0.0)
            grey = np.rint(np.clip(finite / white, 0.0, 1.0) * 255.0).astype(np.uint8)
        if inverted:
            grey = 255 - grey
        if isinstance(transparent, int):
            grey = np.where(values == transparent, np.uint8(255), grey)
        return Image.fromarray(grey).convert("RGB")

    return convert


def _white(image: Image.Image, unsigned: bool) -> float:
    """The value that is shown as white."""
    if image.mode.startswith("I;16"):
        return 65535.0
    brightest = _brightest(image, unsigned)
    if image.mode == "F":
        # 255: 8-bit values stored as floats
        return max(255.0 if 1.0 < brightest <= 255.0 else 1.0, brightest)
    if unsigned and brightest >= 1 << 24:
        return float((1 << 32) - 1)  # all 32 bits are used
    return max(65535.0, brightest)


def _values(band: Image.Image, unsigned: bool) -> NDArray[np.generic]:
    """The values of one channel, (rows, width)."""
    values: NDArray[np.generic] = np.asarray(band)
    return values.view(np.uint32) if unsigned and band.mode == "I" else values


def _brightest(image: Image.Image, unsigned: bool) -> float:
    """The largest finite value, band by band."""
    width, height = image.size
    rows = max(1, BAND_PIXELS // max(1, width))
    brightest = 0.0
    for top in range(0, height, rows):
        band = _values(image.crop((0, top, width, min(height, top + rows))), unsigned)
        finite = band[np.isfinite(band)]
        if finite.size:
            brightest = max(brightest, float(finite.max()))
    return brightest


def _lab_converter() -> Convert:
    from PIL import ImageCms

    lab = ImageCms.createProfile("LAB")
    srgb = ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")

    def convert(band: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(band, transform)
        return band.convert("RGB") if converted is None else converted

    return convert
