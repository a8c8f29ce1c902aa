"""A tiny captioner of every family, exported for every CPU target, against torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.errors import BundleError, ConfigError
from altogether_rt.export.bundling import write_bundle
from altogether_rt.export.recipes import Threshold, find_recipe
from altogether_rt.export.verify import ParityError
from tests.tiny import FAMILIES, tiny_config, tiny_encoder_traced_once, tiny_samples, tiny_source

STAGES = ("encoder", "mapper", "prefill", "step")


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with tiny_encoder_traced_once():
        yield


@pytest.mark.parametrize("family", FAMILIES)
def test_fp32_is_the_checkpoint(family: str, tmp_path: Path) -> None:
    source = tiny_source(tiny_config(family), tmp_path)
    bundle = write_bundle(source, find_recipe("cpu-fp32"), tmp_path / "bundle", tiny_samples())
    for stage in STAGES:
        figures = bundle.manifest.parity[stage]
        assert figures["worst_cosine"] > 0.999999
        assert figures["max_abs_error"] < 1e-4 * max(1, figures["max_abs_reference"])
        assert figures["greedy"] in (None, 1.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_is_close_to_the_checkpoint(family: str, tmp_path: Path) -> None:
    source = tiny_source(tiny_config(family), tmp_path)
    bundle = write_bundle(source, find_recipe("cpu-int8"), tmp_path / "bundle", tiny_samples())
    figures = {stage: bundle.manifest.parity[stage] for stage in STAGES}
    assert all(figures[stage]["mean_cosine"] > 0.998 for stage in STAGES)
    # Quantised at all: float32 would be a hundred times closer.
    assert all(figures[stage]["mean_cosine"] < 0.999999 for stage in STAGES)


@pytest.mark.parametrize("family", FAMILIES)
def test_int4_is_near_the_checkpoint(family: str, tmp_path: Path) -> None:
    """Widths of 64 have few channels to compensate on: real decoders are much closer."""
    source = tiny_source(tiny_config(family), tmp_path)
    recipe = find_recipe("cpu-int4")
    loose = {stage: Threshold(0.9, 0.5) for stage in STAGES}
    bundle = write_bundle(
        source, replace(recipe, parity=loose), tmp_path / "bundle", tiny_samples()
    )
    figures = {stage: bundle.manifest.parity[stage] for stage in STAGES}
    assert figures["mapper"]["mean_cosine"] > 0.998
    assert 0.95 < figures["step"]["mean_cosine"] < 0.9999
    head = "decoder.embed" if source.config.decoder.tied_head else "decoder.head"
    assert head in bundle.manifest.provenance["kept"]["products"]


def test_mlp_mapper(tmp_path: Path) -> None:
    source = tiny_source(tiny_config("gpt2", mapper="mlp"), tmp_path)
    bundle = write_bundle(source, find_recipe("cpu-fp32"), tmp_path / "bundle", tiny_samples())
    assert bundle.manifest.parity["mapper"]["worst_cosine"] > 0.999999


def test_the_bundle_loads_and_says_where_it_comes_from(tmp_path: Path) -> None:
    source = tiny_source(tiny_config(), tmp_path)
    stages: list[str] = []
    written = write_bundle(
        source, find_recipe("cpu-int8"), tmp_path / "b", tiny_samples(), report=stages.append
    )
    loaded = Bundle.load(tmp_path / "b")
    assert loaded.manifest == written.manifest
    assert loaded.config == source.config
    assert loaded.manifest.target.name == "cpu-int8"
    assert loaded.manifest.provenance["checkpoint"] == {"name": "tiny-opt"}
    assert "onnxruntime" in loaded.manifest.provenance["tools"]
    decoder = loaded.manifest.graphs["decoder"]
    assert [spec.name for spec in decoder.outputs] == ["greedy_ids", "logits"]
    assert len(stages) >= 4


def test_the_same_checkpoint_gives_the_same_bundle(tmp_path: Path) -> None:
    recipe, samples = find_recipe("cpu-int8"), tiny_samples()
    ids = {
        write_bundle(
            tiny_source(tiny_config(), tmp_path), recipe, tmp_path / name, samples
        ).bundle_id
        for name in ("one", "two")
    }
    assert len(ids) == 1
    other = tiny_source(tiny_config(), tmp_path, seed=1)
    assert write_bundle(other, recipe, tmp_path / "three", samples).bundle_id not in ids


def test_a_graph_that_is_not_the_checkpoint_gives_no_bundle(tmp_path: Path) -> None:
    config = tiny_config()
    source = replace(
        tiny_source(config, tmp_path), weights=tiny_source(config, tmp_path, seed=1).weights
    )
    with pytest.raises(ParityError, match="the exported mapper differs"):
        write_bundle(source, find_recipe("cpu-fp32"), tmp_path / "b", tiny_samples())
    assert not (tmp_path / "b").exists()
    assert not list(tmp_path.glob(".b*"))


def test_the_recipe_decides_what_is_close_enough(tmp_path: Path) -> None:
    recipe = find_recipe("cpu-int8")
    strict = replace(recipe, parity={**recipe.parity, "step": Threshold(1.0, 1.0)})
    with pytest.raises(ParityError, match=r"the exported step differs.*requires 1\.0"):
        write_bundle(tiny_source(tiny_config(), tmp_path), strict, tmp_path / "b", tiny_samples())


def test_an_existing_bundle_is_replaced_only_when_asked(tmp_path: Path) -> None:
    source, recipe, out = (
        tiny_source(tiny_config(), tmp_path),
        find_recipe("cpu-fp32"),
        tmp_path / "b",
    )
    write_bundle(source, recipe, out, tiny_samples())
    with pytest.raises(BundleError, match="pass --overwrite"):
        write_bundle(source, recipe, out, tiny_samples())
    write_bundle(source, find_recipe("cpu-int8"), out, tiny_samples(), overwrite=True)
    assert Bundle.load(out).manifest.target.name == "cpu-int8"


def test_heads_that_the_kernel_cannot_compute_are_refused(tmp_path: Path) -> None:
    config = tiny_config("llama")
    odd = replace(config, decoder=replace(config.decoder, heads=8, kv_heads=8))
    with pytest.raises(ConfigError, match="multiple of 16"):
        write_bundle(
            tiny_source(odd, tmp_path), find_recipe("cpu-fp32"), tmp_path / "b", tiny_samples()
        )
