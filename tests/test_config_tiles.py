"""Configurations of captioners that read patch tokens and tiles: what follows, what is refused."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest

from altogether_rt.config import (
    MAX_INSTRUCTION_CHARS,
    CaptionerConfig,
    ChatConfig,
    DecoderConfig,
    EncoderConfig,
    GenerationConfig,
    InstructionConfig,
    MapperConfig,
    PromptConfig,
    TilesConfig,
    VitConfig,
)
from altogether_rt.errors import ConfigError

pytestmark = pytest.mark.lean

VOCABULARY = 100
ASKED = InstructionConfig("a", "b", "c")

#: 6 × 6 patches in blocks of 2 × 2 are 9 visual tokens; 48 pixels are two tiles a side.
PATCHES = CaptionerConfig(
    "patches",
    EncoderConfig(
        "vit", 8, image_size=24, normalize=False, vit=VitConfig(8, 1, 2, 16, patch_size=4)
    ),
    MapperConfig("patches", prefix_length=9, shuffle=2),
    DecoderConfig(VOCABULARY, 1, 8, 2, 16, max_positions=200, eos_id=2, pad_id=1),
    PromptConfig(max_alt_tokens=5, before_ids=(3, 4), after_ids=(5,), suffix_ids=(6, 7)),
    GenerationConfig(max_new_tokens=9),
)
TILES = TilesConfig(
    48,
    start_ids=(10,),
    tile_ids=(((11,), (12, 12)), ((13,), (14,))),
    row_end_ids=(15,),
    overview_ids=(16, 16, 16),
)
TILED = replace(PATCHES, tiles=TILES)


def test_pieces_stand_before_each_tile_and_before_the_whole() -> None:
    assert TILED.pieces(2, 2) == [(10, 11), (12, 12), (15, 13), (14,), (16, 16, 16)]
    assert TILED.pieces(1, 2) == [(10, 11), (12, 12), (16, 16, 16)]
    assert TILED.pieces(2, 1) == [(10, 11), (15, 13), (16, 16, 16)]
    assert TILED.pieces() == PATCHES.pieces() == [(3, 4)]


def test_room_is_for_the_most_tiles_and_the_longest_text() -> None:
    text = 1 + 5 + 2  # after_ids, alt-text, suffix_ids
    assert (PATCHES.max_tiles_per_side, PATCHES.max_visual_tokens) == (1, 9)
    assert PATCHES.max_prompt_tokens == 2 + 9 + text
    assert (TILED.max_tiles_per_side, TILED.max_visual_tokens) == (2, 5 * 9)
    assert TILED.max_prompt_tokens == (2 + 2 + 2 + 1 + 3) + 45 + text
    assert TILED.capacity == TILED.max_prompt_tokens + 9
    assert TILED.max_chunk_tokens == TILED.max_prompt_tokens + 15
    assert TILED.slot_positions == TILED.capacity + TILED.max_chunk_tokens
    one = replace(PATCHES, tiles=TilesConfig(24, tile_ids=(((),),)))
    assert one.max_visual_tokens == 9, "a single tile is the whole"
    chat = ChatConfig(ASKED, ASKED, (8,), (9, 9), max_instruction_tokens=30)
    asked = replace(PATCHES, prompt=replace(PATCHES.prompt, chat=chat))
    assert asked.max_prompt_tokens == 2 + 9 + (1 + 30 + 2) + 5
    without = replace(PATCHES, prompt=replace(PATCHES.prompt, no_alt_ids=(9,) * 50))
    assert without.max_prompt_tokens == 2 + 9 + 50
    unused = replace(PATCHES, prompt=replace(PATCHES.prompt, use_alt=False))
    assert unused.max_prompt_tokens == 2 + 9 + 3


@pytest.mark.parametrize("config", [PATCHES, TILED])
def test_what_is_at_its_default_is_not_written(config: CaptionerConfig) -> None:
    """Ids of bundles are hashes of this: a key that came later must not change older ones."""
    plain = config.to_dict()
    assert CaptionerConfig.from_dict(plain) == config
    assert ("tiles" in plain) == (config.tiles is not None)
    assert "loop_repeats" not in plain["generation"]
    assert plain["mapper"]["shuffle"] == 2 and "hidden" not in plain["mapper"]
    assert plain["prompt"]["after_ids"] == [5] and "chat" not in plain["prompt"]


@pytest.mark.parametrize(
    ("part", "change", "says"),
    [
        ("mapper", {"prefix_length": 6}, "number of blocks"),
        ("mapper", {"prefix_length": 3}, "number of blocks"),
        ("mapper", {"shuffle": 4, "prefix_length": 1}, "number of blocks"),
        ("mapper", {"kind": "mlp"}, "must be patches"),
        ("prompt", {"before_ids": (VOCABULARY,)}, "before_ids"),
        ("prompt", {"after_ids": (VOCABULARY,)}, "after_ids"),
        ("prompt", {"no_alt_ids": (0, -1)}, "no_alt_ids"),
        ("prompt", {"chat": ChatConfig(ASKED, ASKED, (VOCABULARY,), ())}, "image_end_ids"),
        ("prompt", {"chat": ChatConfig(ASKED, ASKED, (), (VOCABULARY,))}, "answer_ids"),
        ("decoder", {"max_positions": TILED.max_prompt_tokens}, "no room for a caption"),
        ("tiles", {"longest_edge": 50}, "multiple of encoder.image_size"),
        ("tiles", {"longest_edge": 72}, "3 rows and columns"),
        ("tiles", {"tile_ids": TILES.tile_ids[:1]}, "2 rows and columns"),
        ("tiles", {"tile_ids": (TILES.tile_ids[0], ((13,),))}, "2 rows and columns"),
        ("tiles", {"row_end_ids": (VOCABULARY,)}, "tiles has an id"),
        ("tiles", {"overview_ids": (-1,)}, "tiles has an id"),
        ("tiles", {"tile_ids": (((11,), (12,)), ((13,), (VOCABULARY,)))}, "tiles has an id"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    part: str, change: dict[str, Any], says: str
) -> None:
    changed = dataclasses.replace(getattr(TILED, part), **change)
    with pytest.raises(ConfigError, match=says):
        replace(TILED, **{part: changed})


def test_the_last_ids_and_positions_that_fit_are_taken() -> None:
    last = VOCABULARY - 1
    replace(TILED, tiles=replace(TILES, overview_ids=(0, last)))
    replace(TILED, prompt=replace(TILED.prompt, no_alt_ids=(0, last)))
    tight = replace(TILED.decoder, max_positions=TILED.max_prompt_tokens + 1)
    assert replace(TILED, decoder=tight).max_caption_tokens == 1


def test_tiles_are_for_encoders_of_patch_tokens() -> None:
    pooled = EncoderConfig("pooled", 8, image_size=24)
    mapper = MapperConfig("mlp", prefix_length=4)
    with pytest.raises(ConfigError, match="tiles are for encoders of patch tokens"):
        replace(TILED, encoder=pooled, mapper=mapper)


def test_bounds_of_instructions_and_loops() -> None:
    fits = "x" * (MAX_INSTRUCTION_CHARS - 2)
    InstructionConfig(fits, "y", "z")
    with pytest.raises(ConfigError, match="the most is"):
        InstructionConfig(fits, "yy", "z")
    with pytest.raises(ConfigError, match="max_instruction_tokens"):
        ChatConfig(ASKED, ASKED, (), (), max_instruction_tokens=0)
    for repeats in (0, 2, 1000):
        GenerationConfig(loop_repeats=repeats)
    for repeats in (-1, 1, 1001):
        with pytest.raises(ConfigError, match="loop_repeats"):
            GenerationConfig(loop_repeats=repeats)
