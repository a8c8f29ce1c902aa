"""int8 rows, and large columns as exact sums of int8 ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from altogether_rt.export.graph import OPSET, GraphBuilder
from altogether_rt.export.lowering.base import Int8Linear
from altogether_rt.export.lowering.quantize import SplitColumns, quantize_rows, quantize_splitting
from altogether_rt.export.weights import WeightsFile
from altogether_rt.runtime.ort_session import open_session


def _joined(split: SplitColumns, columns: int) -> NDArray[np.float64]:
    whole = split.values.astype(np.float64)
    joined = whole[:, :columns].copy()
    np.add.at(joined.T, split.repeated, whole[:, columns:].T)
    return joined * split.scales[:, None]


def _matrix(rows: int = 64, columns: int = 96) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)


def test_without_large_columns_nothing_is_split() -> None:
    matrix = _matrix()
    split, plain = quantize_splitting(matrix), quantize_rows(matrix)
    np.testing.assert_array_equal(split.values, plain.values)
    np.testing.assert_array_equal(split.scales, plain.scales)
    assert len(split.repeated) == 0


@pytest.mark.parametrize("factor", [5.0, 7.0, 12.0, -9.0])
def test_a_large_column_no_longer_costs_the_others_their_precision(factor: float) -> None:
    matrix = _matrix(columns=512)
    ordinary = quantize_rows(matrix).scales
    matrix[:, [5, 40]] *= factor
    split = quantize_splitting(matrix)
    assert set(split.repeated.tolist()) == {5, 40}
    assert split.values.min() >= -127
    np.testing.assert_allclose(_joined(split, 512), matrix, atol=0.51 * split.scales.max())
    assert split.scales.mean() < 1.4 * ordinary.mean()
    assert quantize_rows(matrix).scales.mean() > 1.3 * split.scales.mean()


def test_few_columns_are_added_however_many_are_large() -> None:
    matrix = _matrix()
    matrix[:, :30] *= 40
    split = quantize_splitting(matrix)
    assert 0 < len(split.repeated) <= 96 / 16
    np.testing.assert_allclose(_joined(split, 96), matrix, atol=0.51 * split.scales.max())


@pytest.mark.parametrize("matrix", [np.zeros((3, 8)), np.eye(8), np.full((2, 8), 1e-30)])
def test_matrices_of_little(matrix: NDArray[np.float64]) -> None:
    split = quantize_splitting(matrix.astype(np.float32))
    np.testing.assert_allclose(_joined(split, 8), matrix, atol=0.51 * split.scales.max())
    assert (split.scales > 0).all()


def test_the_graph_multiplies_by_the_whole_column(tmp_path: Path) -> None:
    """Beside the product in float64, and to the bit the same for a row alone."""
    weight = _matrix(32, 96)
    weight[:, 7] *= 20
    x = np.random.default_rng(1).normal(size=(9, 96)).astype(np.float32)
    with WeightsFile(tmp_path / "weights.bin") as weights:
        g = GraphBuilder("linear", weights, OPSET)
        g.input("x", np.float32, ["T", 96])
        y = Int8Linear().linear(g, "x", weight, None, "layer")
        g.output(y, "y", np.float32, ["T", 32])
        g.save(tmp_path / "linear.onnx")
    session = open_session(tmp_path / "linear.onnx", threads=1)
    (y,) = session.run(None, {"x": x})
    expected = x.astype(np.float64) @ weight.T.astype(np.float64)
    assert np.linalg.norm(y - expected) < 0.015 * np.linalg.norm(expected)
    alone = [session.run(None, {"x": x[i : i + 1]})[0][0] for i in range(len(x))]
    np.testing.assert_array_equal(y, np.stack(alone))
