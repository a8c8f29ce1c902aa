"""Weights of few bits: what is stored, and what onnxruntime makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from altogether_rt.export.bundling import write_bundle
from altogether_rt.export.graph import GraphBuilder
from altogether_rt.export.lowering.weight_only import BLOCK, WeightOnlyLinear, quantize_blocks
from altogether_rt.export.recipes import find_recipe
from altogether_rt.export.weights import WeightsFile
from altogether_rt.runtime.ort_session import open_session
from tests.tiny import tiny_config, tiny_encoder_traced_once, tiny_samples, tiny_source


def restored(stored: np.ndarray, scales: np.ndarray, bits: int, inner: int) -> np.ndarray:
    """The weight that the stored numbers stand for, written down once more."""
    if bits == 4:
        stored = np.stack([stored & 15, stored >> 4], axis=-1).reshape(*stored.shape[:2], BLOCK)
    values = (stored.astype(np.float32) - 2 ** (bits - 1)) * scales.astype(np.float32)[..., None]
    return values.reshape(len(stored), -1)[:, :inner]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("inner", [64, 96, 130])
def test_products_are_those_of_the_stored_weights(bits: int, inner: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(bits)
    weight = rng.normal(size=(48, inner)).astype(np.float32)
    weight[3] = 0
    bias = rng.normal(size=48).astype(np.float32)
    with WeightsFile(tmp_path / "weights.bin") as file:
        g = GraphBuilder("g", file)
        x = g.input("x", np.float16, ["T", inner])
        y = WeightOnlyLinear(bits).linear(g, x, weight, bias, "decoder.layer")
        g.output(y, "y", np.float16, ["T", 48])
    g.save(tmp_path / "g.onnx")
    x_value = rng.normal(size=(5, inner)).astype(np.float16)
    (found,) = open_session(tmp_path / "g.onnx", threads=1).run(None, {"x": x_value})
    stored, scales = quantize_blocks(weight, bits)
    assert stored.shape == (48, -(-inner // BLOCK), BLOCK * bits // 8)
    kept = restored(stored, scales, bits, inner)
    step = np.repeat(scales.astype(np.float32), BLOCK, axis=1)[:, :inner]
    assert (np.abs(kept - weight) <= 0.5005 * step + 1e-3).all()
    wanted = x_value.astype(np.float32) @ kept.T + bias
    np.testing.assert_allclose(found, wanted, atol=2e-2 * np.abs(wanted).max())


def test_the_decoder_alone_has_few_bits(tmp_path: Path) -> None:
    recipe = find_recipe("cuda-int8")
    half = find_recipe("cuda-fp16").lowering
    assert recipe.lowering == replace(half, linear="int8-weight", decode="", prompts="")
    with tiny_encoder_traced_once():
        bundle = write_bundle(
            tiny_source(tiny_config(), tmp_path), recipe, tmp_path / "b", tiny_samples()
        )
    kinds = {
        name: {node.op_type for node in onnx.load(bundle.graph_path(name)).graph.node}
        for name in ("encoder", "mapper", "decoder")
    }
    assert "MatMulNBits" in kinds["decoder"]
    assert "MatMul" not in kinds["decoder"]
    assert "MatMulNBits" not in kinds["encoder"] | kinds["mapper"]
    assert bundle.manifest.parity["step"]["worst_cosine"] > 0.98
