"""Image to pixels: resized and cropped as open_clip does, or in tiles as Idefics3 does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from altogether_rt.config import EncoderConfig, TilesConfig

__all__ = ["Preprocessor"]

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}

#: An image that would be enlarged to more than this many times the target area is not enlarged as a
#: whole, only the part that is kept. (An image that shrinks is smaller than its source.)
_MAX_RESIZED_AREA_RATIO = 16

#: Pixels on either side of a position that a filter reads when it enlarges, and one to spare.
_FILTER_REACH = 3


class Preprocessor:
    """Resizes and crops as open_clip's inference transform does, pixel for pixel."""

    def __init__(self, encoder: EncoderConfig, tiles: TilesConfig | None = None) -> None:
        """tiles: how images are divided; None: an image is one tile."""
        self._size = encoder.image_size
        self._squash = encoder.resize == "squash"
        self._filter = _FILTERS[encoder.interpolation]
        self._longest_edge = None if tiles is None else tiles.longest_edge

    @property
    def size(self) -> int:
        """Longest side of what `pixels` makes."""
        return self._longest_edge or self._size

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """Of what `pixels` makes; None if it depends on the image."""
        return (self._size, self._size, 3) if self._longest_edge is None else None

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Pixels of an RGB image: uint8 (image_size, image_size, 3).

        With tiles, each side is a multiple of image_size: `tiles` divides it.
        """
        if self._longest_edge is None:
            return self.one_tile(image)
        assert image.mode == "RGB", "load_image converts to RGB"
        image = image.resize(_longest_edge(image.size, self._longest_edge), self._filter)
        image = image.resize(_whole_tiles(image.size, self._size), self._filter)
        return np.asarray(image, dtype=np.uint8)

    def one_tile(self, image: Image.Image) -> NDArray[np.uint8]:
        """Pixels of an RGB image that is not divided: uint8 (image_size, image_size, 3)."""
        assert image.mode == "RGB", "load_image converts to RGB"
        size = self._size
        if self._squash:
            image = image.resize((size, size), self._filter)
        else:
            image = self._shortest_center_crop(image)
        pixels: NDArray[np.uint8] = np.asarray(image, dtype=np.uint8)
        assert pixels.shape == (size, size, 3)
        return pixels

    def tiles(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What `pixels` gave, divided: (tiles, image_size, image_size, 3).

        Row by row, then the whole image; a single tile is the whole image.
        """
        size = self._size
        rows, columns = (side // size for side in pixels.shape[:2])
        if rows * columns == 1:
            return pixels[None].copy()  # pixels of an image cannot be written to
        parts = pixels.reshape(rows, size, columns, size, 3).swapaxes(1, 2)
        whole = Image.fromarray(pixels).resize((size, size), self._filter)
        overview = np.asarray(whole, dtype=np.uint8)[None]
        return np.concatenate([parts.reshape(-1, size, size, 3), overview])

    def _shortest_center_crop(self, image: Image.Image) -> Image.Image:
        size, short = self._size, min(image.size)
        # The rounding of torchvision's Resize (down) and CenterCrop (half to even).
        new_width, new_height = (int(size * side / short) for side in image.size)
        left, top = round((new_width - size) / 2), round((new_height - size) / 2)
        if short < size and new_width * new_height > _MAX_RESIZED_AREA_RATIO * size * size:
            return self._center_of_enlarged(image, (new_width, new_height), (left, top))
        if (new_width, new_height) != image.size:
            image = image.resize((new_width, new_height), self._filter)
        return image.crop((left, top, left + size, top + size))

    def _center_of_enlarged(
        self, image: Image.Image, new_size: tuple[int, int], corner: tuple[int, int]
    ) -> Image.Image:
        """The centre crop of a long strip whose enlargement would have many megapixels.

        Equal to cropping the enlarged image up to the rounding of filter weights: horizontal first,
        then vertical, like Pillow. It works on a cut-out because Pillow stores a box in float32.
        """
        size = self._size
        x, y = (
            _kept_part(side, new_side, start, size)
            for side, new_side, start in zip(image.size, new_size, corner, strict=True)
        )
        image = image.crop((x.low, y.low, x.high, y.high))
        rows = image.height
        image = image.resize((size, rows), self._filter, box=(x.start, 0, x.end, rows))
        return image.resize((size, size), self._filter, box=(0, y.start, size, y.end))


def _longest_edge(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Width and height with this longer side and an even shorter one, as Idefics3 rounds them."""
    width, height = size
    ratio = width / height
    short = int(longest / ratio) if width >= height else int(longest * ratio)
    short = max(short + short % 2, 1)
    return (longest, short) if width >= height else (short, longest)


def _whole_tiles(size: tuple[int, int], tile: int) -> tuple[int, int]:
    """Width and height rounded up to multiples of a tile's side, the longer one first."""
    width, height = size
    ratio = width / height
    if width >= height:
        width = -(-width // tile) * tile
        return width, -(-int(width / ratio) // tile) * tile
    height = -(-height // tile) * tile
    return -(-int(height * ratio) // tile) * tile, height


@dataclass(frozen=True)
class _KeptPart:
    """Along one side: the pixels `low` to `high` that a crop needs, and its bounds within them."""

    low: int
    high: int
    start: float
    end: float


def _kept_part(side: int, new_side: int, new_start: int, size: int) -> _KeptPart:
    start, end = (edge * side / new_side for edge in (new_start, new_start + size))
    low = max(0, int(start) - _FILTER_REACH)
    high = min(side, int(end) + 1 + _FILTER_REACH)
    return _KeptPart(low, high, start - low, min(end - low, high - low))
