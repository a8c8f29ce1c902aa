"""The doors for a decoder family and a target: nothing but a description is added."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from altogether_rt.export.bundling import write_bundle
from altogether_rt.export.recipes import find_recipe, load_recipe, recipe_folder
from altogether_rt.runtime.select import open_runtime
from tests.tiny import tiny_config, tiny_samples, tiny_source


def test_a_decoder_family_is_a_description(tmp_path: Path) -> None:
    """A mixture that no published family has: rotary and gated with LayerNorm, biases and GELU."""
    config = tiny_config("opt")
    decoder = dataclasses.replace(
        config.decoder,
        family="stand-in",
        position="rotary",
        position_offset=0,
        gated=True,
        activation="gelu_tanh",
        kv_heads=2,
    )
    source = tiny_source(dataclasses.replace(config, decoder=decoder), tmp_path)
    bundle = write_bundle(source, find_recipe("cpu-fp32"), tmp_path / "bundle", tiny_samples())
    assert bundle.config.decoder.family == "stand-in"
    assert bundle.manifest.parity["step"]["mean_cosine"] > 0.99999
    with open_runtime(bundle, threads=1, num_slots=2) as runtime:
        pixels = np.zeros((1, 16, 16, 3), np.uint8)
        assert np.isfinite(runtime.map(runtime.encode(pixels))).all()


def test_a_target_is_a_recipe(tmp_path: Path) -> None:
    """int8 weights for the decoder's linear layers, and tables as they were trained."""
    text = (recipe_folder() / "cpu-int8.toml").read_text("utf-8")
    assert 'table = "int8-row"' in text
    path = tmp_path / "cpu-stand-in.toml"
    path.write_text(text.replace('table = "int8-row"', 'table = "fp32"'))
    recipe = load_recipe(path)
    source = tiny_source(tiny_config("opt"), tmp_path)
    bundle = write_bundle(source, recipe, tmp_path / "bundle", tiny_samples())
    assert bundle.manifest.target.name == "cpu-stand-in"
    with open_runtime(bundle, threads=1, num_slots=2) as runtime:
        assert runtime.device == "cpu"


def test_a_target_that_misses_its_parity_is_refused(tmp_path: Path) -> None:
    from altogether_rt.export.verify import ParityError

    path = tmp_path / "cpu-strict.toml"
    text = (recipe_folder() / "cpu-int8.toml").read_text("utf-8")
    lines = [
        "worst = 0.9999999" if line.startswith("worst =") else line for line in text.splitlines()
    ]
    lines = ["mean = 0.9999999" if line.startswith("mean =") else line for line in lines]
    path.write_text("\n".join(lines))
    source = tiny_source(tiny_config("opt"), tmp_path)
    with pytest.raises(ParityError, match="the exported"):
        write_bundle(source, load_recipe(path), tmp_path / "bundle", tiny_samples())
    assert not (tmp_path / "bundle").exists()
