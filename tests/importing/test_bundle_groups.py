"""Weights of 4 bits come back from a bundle as they are stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from altogether_rt.export.bundling import write_bundle
from altogether_rt.export.recipes import STAGES, Threshold, find_recipe
from altogether_rt.importing.bundle_weights import GraphWeights, recover_parameters
from tests.tiny import tiny_config, tiny_encoder_traced_once, tiny_model, tiny_samples, tiny_source


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_weights_of_4_bits_are_read_as_they_are_stored(family: str, tmp_path: Path) -> None:
    config = tiny_config(family)
    source = tiny_source(config, tmp_path)
    recipe = find_recipe("cpu-int4")
    recipe = replace(
        recipe,
        lowering=replace(recipe.lowering, keep_budget=0.0),
        parity={stage: Threshold(-1, -1) for stage in STAGES},
    )
    with tiny_encoder_traced_once():
        bundle = write_bundle(source, recipe, tmp_path / "bundle", tiny_samples())
    decoder = tiny_model(config).decoder
    shapes = {f"decoder.{n}": tuple(t.shape) for n, t in decoder.state_dict().items()}
    tied = config.decoder.tied_head
    found = recover_parameters(GraphWeights(bundle.graph_path("decoder")), shapes, tied_head=tied)
    for name, tensor in decoder.state_dict().items():
        wanted, got = tensor.numpy().ravel(), found[f"decoder.{name}"].ravel()
        if "positions" in name:  # rows that are never read are not stored
            wanted, got = (x[config.decoder.position_offset * 64 :] for x in (wanted, got))
        cosine = wanted @ got / np.linalg.norm(wanted) / np.linalg.norm(got)
        assert cosine > 0.98, name
        bits4 = ".layers." in f".{name}" and tensor.ndim == 2
        assert (cosine < 0.9999) == bits4, name
