"""Smoothing changes no result, and gives int8 back what outliers take from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from altogether_rt.config import CaptionerConfig
from altogether_rt.errors import ConfigError
from altogether_rt.export.bundling import ExportSource, write_bundle
from altogether_rt.export.calibration.observe import Calibration, observe
from altogether_rt.export.calibration.smooth import SmoothedWeights
from altogether_rt.export.recipes import STAGES, LoweringNames, Threshold, find_recipe
from altogether_rt.export.samples import Samples
from altogether_rt.export.verify import record
from altogether_rt.export.weights import MappedWeights
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.runtime.torch.runtime import TorchRuntime
from tests.tiny import (
    EMBED_DIM,
    FAMILIES,
    TinyEncoder,
    tiny_config,
    tiny_model,
    tiny_samples,
    tiny_tokenizer,
)

State = Mapping[str, torch.Tensor]


def with_outliers(state: State) -> dict[str, torch.Tensor]:
    """Three channels of every norm 20 to 50 times larger, others in each."""
    rng = np.random.default_rng(5)
    changed = {name: tensor.clone() for name, tensor in state.items()}
    for name, tensor in changed.items():
        if ".norm" in name and name.endswith(".weight"):
            where = rng.choice(len(tensor), 3, replace=False)
            tensor[torch.from_numpy(where)] *= torch.from_numpy(
                rng.uniform(20, 50, 3).astype(np.float32)
            )
    return changed


def model_of(config: CaptionerConfig, state: State) -> CaptionerModel:
    model = CaptionerModel(config, TinyEncoder())
    model.load_state_dict(state)
    return model.eval()


def weights_of(state: State) -> MappedWeights:
    return MappedWeights({name: tensor.numpy() for name, tensor in state.items()})


def observed(model: CaptionerModel, samples: Samples) -> Calibration:
    with (
        TorchRuntime(model, num_slots=len(samples.pixels)) as reference,
        observe(reference) as calibration,
    ):
        record(reference, samples)
    return calibration


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_a_smoothed_model_computes_the_same(family: str) -> None:
    config = tiny_config(family)
    state = with_outliers(tiny_model(config).state_dict())
    model = model_of(config, state)
    calibration = observed(model_of(config, state), tiny_samples())
    smoothed = SmoothedWeights(weights_of(state), config, calibration, 0.5)
    changed = {name: torch.from_numpy(np.array(smoothed.get(name))) for name in state}
    moved = [name for name in state if not torch.equal(changed[name], state[name])]
    assert any(name.startswith("mapper.") for name in moved)
    assert any(name.startswith("decoder.") for name in moved)

    embeddings = torch.nn.functional.normalize(torch.randn(3, EMBED_DIM), dim=-1)
    ids = torch.randint(3, 97, (3, 9))
    other = model_of(config, changed)
    for wanted, found in (
        (model.visual_tokens(embeddings), other.visual_tokens(embeddings)),
        (
            model.logits(model.visual_tokens(embeddings), ids),
            other.logits(model.visual_tokens(embeddings), ids),
        ),
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def test_cached_values_are_those_of_the_smoothed_model() -> None:
    config = tiny_config("opt")
    state = tiny_model(config).state_dict()
    calibration = observed(tiny_model(config), tiny_samples())
    smoothed = SmoothedWeights(weights_of(state), config, calibration, 0.5)
    changed = {name: torch.from_numpy(np.array(smoothed.get(name))) for name in state}
    again = observed(model_of(config, changed), tiny_samples())
    for layer in range(config.decoder.layers):
        assert not np.allclose(smoothed.values(layer), calibration.values[layer], rtol=0.05)
        np.testing.assert_allclose(smoothed.values(layer), again.values[layer], rtol=1e-3)
        np.testing.assert_allclose(smoothed.keys(layer), again.keys[layer], rtol=1e-3)


def test_no_channel_is_made_larger() -> None:
    """One that the samples hardly excite, or not at all, may be excited by other inputs."""
    config = tiny_config("opt")
    state = tiny_model(config).state_dict()
    calibration = observed(tiny_model(config), tiny_samples())
    inputs = np.full_like(calibration.inputs["decoder.layers.0.fc2"], 1.0)
    inputs[:4] = (0.0, 1e-6, 0.01, 100.0)
    calibration.inputs["decoder.layers.0.fc2"] = inputs
    weights = weights_of(state)
    weight = np.array(weights.get("decoder.layers.0.fc2.weight"))
    smoothed = SmoothedWeights(weights, config, calibration, 0.5)
    factors = np.median(smoothed.get("decoder.layers.0.fc2.weight") / weight, axis=0)
    np.testing.assert_array_equal(factors[:3], 1)
    largest = np.abs(weight).max(axis=0)
    typical = np.median(np.sqrt(inputs[1:] / largest[1:]))
    assert factors[3] == pytest.approx(np.sqrt(100 / largest[3]) / typical, rel=1e-4)
    assert (factors >= 1).all()


def test_no_smoothing_is_the_checkpoint_itself() -> None:
    config = tiny_config("opt")
    state = tiny_model(config).state_dict()
    smoothed = SmoothedWeights(weights_of(state), config, Calibration(), 0.0)
    assert all(np.array_equal(smoothed.get(name), state[name].numpy()) for name in state)
    assert "decoder.embed.weight" in smoothed
    assert "decoder.absent" not in smoothed


def test_outliers_cost_int8_less_with_smoothing(tmp_path: Path) -> None:
    config = tiny_config("opt")
    state = with_outliers(tiny_model(config).state_dict())
    source = ExportSource(
        config=config,
        weights=weights_of(state),
        load_model=lambda: model_of(config, state),
        tokenizer_path=tiny_tokenizer(tmp_path / "tokenizer.json"),
        provenance={},
    )
    recipe = find_recipe("cpu-int8")
    anything = {stage: Threshold(-1.0, -1.0) for stage in STAGES}
    lost = {}
    for strength in (0.0, 0.5):
        lowering = dataclasses.replace(recipe.lowering, smoothing=strength, keep_budget=0.0)
        changed = dataclasses.replace(recipe, lowering=lowering, parity=anything)
        bundle = write_bundle(source, changed, tmp_path / f"s{strength}", tiny_samples())
        lost[strength] = 1 - bundle.manifest.parity["prefill"]["mean_cosine"]
    assert lost[0.5] < 0.5 * lost[0.0]


def test_a_strength_beyond_one_is_refused() -> None:
    names = find_recipe("cpu-int8").lowering
    with pytest.raises(ConfigError, match="smoothing must be between 0 and 1"):
        LoweringNames(names.linear, names.table, names.attention, smoothing=1.5)


def test_calibration_sees_inputs_and_cache() -> None:
    """Against the layers run by hand on the first tokens of one row."""
    config = tiny_config("opt")
    model = tiny_model(config)
    samples = tiny_samples(1)
    calibration = observed(tiny_model(config), samples)
    with torch.inference_mode():
        visual = model.visual_tokens(model.encode(torch.from_numpy(samples.pixels)))
        ids = torch.tensor(samples.prompt_ids).long().reshape(1, -1)
        x = torch.cat([visual, model.decoder.embed(ids)], 1)
        assert model.decoder.positions is not None
        x = x + model.decoder.positions(torch.arange(x.shape[1]) + 2)
        layer: Any = model.decoder.layers[0]
        read = layer.norm1(x)
        keys = layer.k(read).reshape(-1, 4, 16).abs().amax(0).numpy()
    assert (
        calibration.inputs["decoder.layers.0.q"] >= read.abs().amax((0, 1)).numpy() - 1e-5
    ).all()
    assert (calibration.keys[0] >= keys - 1e-5).all()
    assert calibration.keys[0].shape == (4, 16)
    assert set(calibration.inputs) >= {
        "mapper.linear",
        "mapper.layers.1.fc2",
        "decoder.layers.1.out",
    }
