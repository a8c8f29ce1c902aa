"""Layers with scales fixed at export, one at a time and in whole captioners."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from altogether_rt.export.bundling import write_bundle
from altogether_rt.export.graph import GraphBuilder
from altogether_rt.export.lowering.activations import Activations
from altogether_rt.export.lowering.static_quant import FP8, INT8, StaticLinear, StoredType
from altogether_rt.export.recipes import find_recipe
from altogether_rt.export.weights import WeightsFile
from altogether_rt.runtime.ort_session import open_session
from tests.tiny import tiny_config, tiny_encoder_traced_once, tiny_samples, tiny_source

RNG = np.random.default_rng(0)
_WIDE: np.ndarray = RNG.normal(size=(40, 64)).astype(np.float32) * np.logspace(-3, 1, 40)[:, None]
WEIGHT: NDArray[np.float32] = _WIDE.astype(np.float32)
BIAS = RNG.normal(size=40).astype(np.float32)
TYPES = pytest.mark.parametrize("stored", [INT8, FP8], ids=["int8", "fp8"])


def run(folder: Path, stored: StoredType, x: NDArray[np.float32], largest: float) -> np.ndarray:
    half = Activations(np.float16)
    lowering = StaticLinear(stored, {"layer": largest})
    with WeightsFile(folder / "weights.bin") as weights:
        g = GraphBuilder("g", weights, 24)
        y = lowering.linear(
            g, half.narrow(g, g.input("x", np.float32, [5, 64])), WEIGHT, BIAS, "layer+b"
        )
        g.output(half.widen(g, y), "y", np.float32, [5, 40])
    g.save(folder / "g.onnx")
    onnx.checker.check_model(str(folder / "g.onnx"), full_check=True)
    result: np.ndarray = open_session(folder / "g.onnx", threads=1, half=True).run(None, {"x": x})[
        0
    ]
    return result


@TYPES
def test_a_layer_is_what_its_formula_says(stored: StoredType, tmp_path: Path) -> None:
    x = RNG.normal(size=(5, 64)).astype(np.float32)
    x[0, 0] = 100  # far beyond what was measured: clipped
    y = run(tmp_path, stored, x, largest=4.0)
    step = np.float16(4.0 * 1.1 / stored.largest)
    scaled = (x.astype(np.float16) / step).astype(np.float32)  # divided in float16
    scaled = scaled.clip(-stored.largest, stored.largest)
    seen = (np.rint(scaled) if stored is INT8 else scaled.astype(stored.dtype)).astype(np.float32)
    scales = (np.abs(WEIGHT).max(axis=1) / stored.largest).astype(np.float16).astype(np.float32)
    rows = (WEIGHT / scales[:, None]).clip(-stored.largest, stored.largest)
    rows = (np.rint(rows) if stored is INT8 else rows.astype(stored.dtype)).astype(np.float32)
    expected = (seen * np.float32(step)) @ (rows * scales[:, None]).T + BIAS
    assert (np.abs(y - expected) < 3e-3 * np.abs(expected).max(axis=0)).all()
    exact = x[1:] @ WEIGHT.T + BIAS
    error = np.abs(y[1:] - exact).max(axis=0) / np.abs(exact).max(axis=0)
    assert error.max() < (0.05 if stored is INT8 else 0.15)  # for small channels and large ones
    assert np.abs(y[1:] - exact).max() > 1e-3


@TYPES
def test_a_layer_that_was_always_zero(stored: StoredType, tmp_path: Path) -> None:
    y = run(tmp_path, stored, np.zeros((5, 64), np.float32), largest=0.0)
    np.testing.assert_allclose(y, np.tile(BIAS, (5, 1)), rtol=1e-3)


@pytest.mark.parametrize(("target", "closest"), [("tensorrt-int8", 0.999), ("tensorrt-fp8", 0.99)])
def test_captioners(target: str, closest: float, tmp_path: Path) -> None:
    with tiny_encoder_traced_once():
        source = tiny_source(tiny_config("gpt2"), tmp_path)
        bundle = write_bundle(source, find_recipe(target), tmp_path / "b", tiny_samples())
    figures = bundle.manifest.parity
    in_float16 = {"tensorrt-int8": ["encoder"], "tensorrt-fp8": []}[target]
    for stage in ("encoder", "mapper", "prefill", "step"):
        quantised = figures[stage]["mean_cosine"] < 0.99999
        assert closest < figures[stage]["mean_cosine"] and quantised == (stage not in in_float16)
    narrow = (onnx.TensorProto.INT8, onnx.TensorProto.FLOAT8E4M3FN)
    for name, layers in (("mapper", 9), ("decoder", 8)):
        model = onnx.load(bundle.graph_path(name), load_external_data=False)
        stored = [t for t in model.graph.initializer if t.data_type in narrow and len(t.dims) == 2]
        assert len(stored) == layers
