"""The hand-written ONNX file, and rates that can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from altogether_rt.bench.ceilings import measure_ceilings
from altogether_rt.runtime.ort_session import open_session
from altogether_rt.runtime.tiny_onnx import matmul_model

pytestmark = pytest.mark.lean
ort = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("integer", [True, False])
def test_model_multiplies(integer: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x: Any = rng.integers(0, 256, (5, 300), np.uint8)
    weight: Any = rng.integers(-127, 128, (300, 7), np.int8)
    expected = x.astype(np.int32) @ weight.astype(np.int32)
    if not integer:
        x, weight, expected = (a.astype(np.float32) for a in (x, weight, expected))
    path = tmp_path / "m.onnx"
    path.write_bytes(matmul_model(weight))
    (y,) = open_session(path, threads=1).run(None, {"x": x})
    assert y.dtype == expected.dtype
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_model_is_valid_onnx() -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra export")
    model = onnx.load_model_from_string(matmul_model(np.ones((130, 3), np.int8)))
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["MatMulInteger"]


def test_ceilings_are_rates_that_a_computer_can_have() -> None:
    ceilings = measure_ceilings(threads=1, quick=True)
    assert ceilings.threads == 1
    assert 1e8 < ceilings.fp32_per_s < 1e13
    assert 1e8 < ceilings.int8_per_s < 1e14
    assert 1e8 < ceilings.bytes_per_s < 1e12


def test_ceilings_need_no_onnx_package(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(matmul_model(np.ones((2, 3), np.float32)))
    (y,) = ort.InferenceSession(path).run(None, {"x": np.ones((1, 2), np.float32)})
    assert y.tolist() == [[2, 2, 2]]
