"""Configurations: what is wrong is named, what is right comes back the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.config import (
    CaptionerConfig,
    DecoderConfig,
    GenerationConfig,
    MapperConfig,
    PromptConfig,
    load_config,
    named_config,
    named_configs,
)
from altogether_rt.errors import ConfigError
from altogether_rt.plain_data import from_dict

pytestmark = pytest.mark.lean


def plain() -> dict[str, Any]:
    """A valid configuration as plain data."""
    return {
        "name": "plain",
        "encoder": {"name": "x", "embed_dim": 8},
        "mapper": {"prefix_length": 8, "heads": 8},
        "decoder": {
            "vocab_size": 1024,
            "layers": 4,
            "width": 256,
            "heads": 8,
            "ffn_width": 1024,
            "max_positions": 136,
            "eos_id": 2,
            "pad_id": 1,
        },
        "prompt": {"max_alt_tokens": 64},
        "generation": {"max_new_tokens": 64},
    }


def changed(where: str, value: Any) -> dict[str, Any]:
    """`plain()` with one value set; `where` is its path."""
    data = plain()
    table, *parts = where.split(".")
    target = data
    for part in [table, *parts][:-1]:
        target = target[part]
    target[[table, *parts][-1]] = value
    return data


@pytest.mark.parametrize("name", named_configs())
def test_named_configurations_come_back_the_same(name: str) -> None:
    config = named_config(name)
    assert config.name == name
    through_json = json.loads(json.dumps(config.to_dict()))
    assert CaptionerConfig.from_dict(through_json) == config


def test_the_published_captioner() -> None:
    """The numbers of the paper and its public code."""
    config = named_config("altogether-opt-1.3b")
    assert config.mapper == MapperConfig("transformer", 40, 40, 8, 8, 2.0)
    decoder = config.decoder
    assert (decoder.layers, decoder.width, decoder.heads, decoder.head_dim) == (24, 2048, 32, 64)
    assert (decoder.vocab_size, decoder.ffn_width, decoder.eos_id, decoder.pad_id) == (
        *(50272, 8192),
        *(2, 1),
    )
    assert decoder.max_positions + decoder.position_offset == 2050
    assert config.prompt == PromptConfig(max_alt_tokens=128, padding="none")
    assert config.generation == GenerationConfig(192, 0.2, 0.7)
    assert (config.max_prompt_tokens, config.capacity) == (168, 360)


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_clipcap(kind: str) -> None:
    config = named_config(f"clipcap-{kind}")
    assert config.encoder.normalize == (kind == "transformer")
    assert not config.prompt.use_alt
    assert config.max_prompt_tokens == config.mapper.prefix_length
    assert config.capacity == config.mapper.prefix_length + 67
    assert config.generation.stop_ids == (13,)


def test_derived_values() -> None:
    config = CaptionerConfig.from_dict(plain())
    decoder = config.decoder
    assert decoder.num_kv_heads == decoder.heads
    assert decoder.token_width == decoder.width
    grouped = from_dict(DecoderConfig, {**plain()["decoder"], "kv_heads": 2, "embed_width": 64})
    assert (grouped.num_kv_heads, grouped.token_width) == (2, 64)
    long = CaptionerConfig.from_dict(changed("generation.max_new_tokens", 10_000))
    assert long.max_caption_tokens == long.decoder.max_positions - long.max_prompt_tokens
    assert long.capacity == long.decoder.max_positions


@pytest.mark.parametrize("where", ["colour", "decoder.colour", "mapper.layer", "prompt.max_alt"])
def test_unknown_keys_are_named(where: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown key {where}"):
        CaptionerConfig.from_dict(changed(where, 1))


@pytest.mark.parametrize("where", ["name", "encoder", "decoder.width", "encoder.embed_dim"])
def test_missing_keys_are_named(where: str) -> None:
    data = plain()
    table, _, key = where.partition(".")
    del (data[table] if key else data)[key or table]
    with pytest.raises(ConfigError, match=rf"missing key {where}"):
        CaptionerConfig.from_dict(data)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("decoder.width", "256"),
        ("decoder.width", 256.0),
        ("decoder.width", True),
        ("decoder.width", None),
        ("decoder.tied_head", 1),
        ("decoder.kv_heads", "8"),
        ("decoder.activation", "mish"),
        ("mapper.mlp_ratio", "2"),
        ("mapper.mlp_ratio", False),
        ("prompt.padding", "left"),
        ("prompt.suffix_ids", 3),
        ("prompt.suffix_ids", ["3"]),
        ("encoder.mean", [0.5, 0.5]),
        ("encoder.model", [1]),
        ("generation", 3),
        ("name", 3),
    ],
)
def test_wrong_types_are_named(where: str, value: object) -> None:
    with pytest.raises(ConfigError, match=where):
        CaptionerConfig.from_dict(changed(where, value))


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("encoder.image_size", 0),
        ("encoder.embed_dim", -1),
        ("mapper.prefix_length", 0),
        ("mapper.heads", 7),
        ("decoder.heads", 7),
        ("decoder.kv_heads", 3),
        ("decoder.eos_id", 1024),
        ("decoder.pad_id", -1),
        ("decoder.max_positions", 72),
        ("prompt.max_alt_tokens", -1),
        ("prompt.max_alt_tokens", 128),
        ("generation.max_new_tokens", 0),
        ("generation.temperature", -0.1),
        ("generation.top_p", 0.0),
        ("generation.top_p", 1.01),
        ("decoder.heads", 0),
        ("decoder.kv_heads", 0),
        ("decoder.layers", 0),
        ("decoder.ffn_width", -1),
        ("decoder.position_offset", -1),
        ("decoder.norm_eps", -1e-5),
        ("mapper.heads", 0),
        ("mapper.clip_length", 0),
        ("mapper.mlp_ratio", float("nan")),
        ("generation.temperature", float("inf")),
        ("generation.stop_ids", [10**9]),
        ("prompt.suffix_ids", [-1]),
        ("encoder.std", [1.0, 0.0, 1.0]),
        pytest.param("generation.temperature", 10**400, id="no float holds it"),
        pytest.param("mapper.mlp_ratio", -(10**400), id="nor this"),
        pytest.param("decoder.layers", 10**400, id="no float holds it, and none is asked for"),
        pytest.param("encoder.image_size", 1 << 20_000, id="more digits than Python writes"),
    ],
)
def test_values_out_of_bounds_are_refused(where: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        CaptionerConfig.from_dict(changed(where, value))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_whole_numbers_are_taken_for_fractions() -> None:
    config = CaptionerConfig.from_dict(changed("generation.temperature", 1))
    assert config.generation.temperature == 1.0
    assert isinstance(config.generation.temperature, float)


def test_a_configuration_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        "[encoder]\nname = 'x'\nembed_dim = 8\n[mapper]\nheads = 2\n[decoder]\nvocab_size = 9\n"
        "layers = 1\nwidth = 8\nheads = 2\nffn_width = 8\nmax_positions = 200\n"
        "eos_id = 2\npad_id = 1"
    )
    assert load_config(str(path)).name == "mine"
    assert load_config("starter") == named_config("starter")
    with pytest.raises(ConfigError, match=r"altogether-opt-1\.3b"):
        named_config("opt")
