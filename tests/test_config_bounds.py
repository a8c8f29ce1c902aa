"""Bounds of a configuration's values, each tried at the value just outside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from altogether_rt.config import named_config
from altogether_rt.errors import ConfigError

pytestmark = pytest.mark.lean

CONFIG = named_config("starter")
VOCABULARY = CONFIG.decoder.vocab_size


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("encoder", {"embed_dim": 0}),
        ("encoder", {"image_size": 0}),
        ("decoder", {"embed_width": 0}),
        ("decoder", {"norm_eps": 0.0}),
        ("decoder", {"norm_eps": 1.0}),
        ("decoder", {"pad_id": VOCABULARY}),
        ("decoder", {"pad_id": -1}),
        ("decoder", {"eos_id": VOCABULARY}),
        ("prompt", {"suffix_ids": (VOCABULARY,)}),
        ("generation", {"stop_ids": (VOCABULARY,)}),
        ("generation", {"stop_ids": (-1,)}),
    ],
)
def test_values_just_out_of_bounds(part: str, change: dict[str, Any]) -> None:
    (name,) = change
    with pytest.raises(ConfigError, match=name):
        replace(CONFIG, **{part: replace(getattr(CONFIG, part), **change)})


def test_the_last_token_of_the_vocabulary_is_one() -> None:
    decoder = replace(CONFIG.decoder, pad_id=VOCABULARY - 1)
    assert replace(CONFIG, decoder=decoder).decoder.pad_id == VOCABULARY - 1
