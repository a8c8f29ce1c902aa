"""The shape of pixels; parity with other libraries is tested beside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from altogether_rt.config import EncoderConfig
from altogether_rt.preprocess.pixels import Preprocessor

pytestmark = pytest.mark.lean


def test_squash_keeps_the_edges_and_crop_drops_them() -> None:
    picture = Image.new("RGB", (96, 32), (0, 0, 255))
    picture.paste((255, 0, 0), (0, 0, 24, 32))  # the left quarter
    squash = Preprocessor(EncoderConfig("any", 1, image_size=16, resize="squash"))
    crop = Preprocessor(EncoderConfig("any", 1, image_size=16))
    assert squash.pixels(picture)[0, 0].tolist() == [255, 0, 0]
    assert crop.pixels(picture)[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("resize", ["squash", "shortest_center_crop"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (40_000, 2), (7, 6)])
def test_every_picture_becomes_the_same_shape(size: tuple[int, int], resize: Any) -> None:
    preprocessor = Preprocessor(EncoderConfig("any", 1, image_size=24, resize=resize))
    pixels = preprocessor.pixels(Image.new("RGB", size, (10, 20, 30)))
    assert pixels.shape == (24, 24, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == np.array([10, 20, 30])).all()


def test_a_picture_of_the_right_size_is_left_as_it_is() -> None:
    array = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    for resize in ("squash", "shortest_center_crop"):
        preprocessor = Preprocessor(EncoderConfig("any", 1, image_size=24, resize=resize))
        assert np.array_equal(preprocessor.pixels(Image.fromarray(array)), array)
