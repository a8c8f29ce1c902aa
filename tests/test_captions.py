"""Parameters of captions and what stands for an image in a request."""

from __future__ import annotations

import numpy as np
import pytest

from altogether_rt.captions import CaptionParams, CaptionRequest, EmbeddedImage
from altogether_rt.config import GenerationConfig
from altogether_rt.errors import ConfigError

pytestmark = pytest.mark.lean

DEFAULTS = GenerationConfig(max_new_tokens=50, temperature=0.2, top_p=0.7)


def test_defaults_are_the_configurations_and_seed_0() -> None:
    assert CaptionParams.from_config(DEFAULTS) == CaptionParams(50, 0.2, 0.7, seed=0)


def test_an_override_of_zero_is_an_override_and_none_is_not() -> None:
    params = CaptionParams.from_config(DEFAULTS, temperature=0.0, top_p=None, seed=0)
    assert (params.temperature, params.top_p) == (0.0, 0.7)
    assert params.greedy
    assert not CaptionParams.from_config(DEFAULTS, temperature=0.01).greedy


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": -1}, "seed"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_parameters_out_of_bounds(change: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        CaptionParams.from_config(DEFAULTS, **change)


def test_a_request_says_what_its_image_is() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    computed = CaptionRequest(pixels).content_hash()
    assert len(computed) == 16
    assert CaptionRequest(pixels, content=b"known").content_hash() == b"known"
    embedded = EmbeddedImage(b"embedded", np.zeros(4, np.float32))
    assert CaptionRequest(None, embedded=embedded).content_hash() == b"embedded"
