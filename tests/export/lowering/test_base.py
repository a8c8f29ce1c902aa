"""Linear layers and tables, one at a time, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from altogether_rt.export.graph import GraphBuilder, Shape
from altogether_rt.export.lowering.base import Fp32Linear, Fp32Table, Int8Linear, Int8Table
from altogether_rt.export.lowering.quantize import quantize_rows
from altogether_rt.export.weights import WeightsFile
from altogether_rt.runtime.ort_session import open_session

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(40, 64)).astype(np.float32)
BIAS = RNG.normal(size=40).astype(np.float32)
Graph = Callable[[NDArray[Any]], NDArray[np.float32]]


def graph(
    folder: Path, build: Callable[[GraphBuilder, str], str], dtype: type = np.float32
) -> Graph:
    """A function that runs what `build` makes of the input."""
    shape: Shape = ["T", 64] if dtype is np.float32 else ["T"]
    with WeightsFile(folder / "weights.bin") as weights:
        g = GraphBuilder("g", weights)
        g.output(build(g, g.input("x", dtype, shape)), "y", np.float32, ["T", "out"])
    g.save(folder / "g.onnx")
    session = open_session(folder / "g.onnx", threads=1)
    return lambda x: session.run(None, {"x": x})[0]


def linear(lowering: Fp32Linear | Int8Linear) -> Callable[[GraphBuilder, str], str]:
    return lambda g, x: lowering.linear(g, x, WEIGHT, BIAS, "layer")


def test_fp32_linear(tmp_path: Path) -> None:
    x = RNG.normal(size=(5, 64)).astype(np.float32)
    y = graph(tmp_path, linear(Fp32Linear()))(x)
    np.testing.assert_allclose(y, x @ WEIGHT.T + BIAS, atol=1e-4)


def test_int8_linear_is_what_its_formula_says(tmp_path: Path) -> None:
    sizes = np.array([[1], [30], [1e-4], [1], [1e4]], np.float32)
    x = RNG.normal(size=(5, 64)).astype(np.float32) * sizes
    y = graph(tmp_path, linear(Int8Linear()))(x)
    quantized = quantize_rows(WEIGHT)
    row_scale = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    integers = np.rint(x / row_scale).astype(np.int32)
    product = (integers @ quantized.values.T.astype(np.int32)).astype(np.float32)
    expected = product * row_scale * quantized.scales + BIAS
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    exact = x @ WEIGHT.T + BIAS
    assert (np.abs(y - exact).max(axis=1) < 0.03 * np.abs(exact).max(axis=1)).all()


def test_a_kept_product_sees_channels_beside_an_outlier(tmp_path: Path) -> None:
    """One channel 3,000 times the others, as in the first token of trained decoders."""
    x = RNG.normal(size=(3, 64)).astype(np.float32)
    x[1, 20] = 3000
    weight = WEIGHT.copy()
    weight[:, 20] = 0  # what is lost is not hidden by the outlier's own product
    exact = x @ weight.T

    def product(kept: tuple[str, ...]) -> NDArray[np.float32]:
        lowering = Int8Linear(kept)
        return graph(tmp_path, lambda g, x: lowering.linear(g, x, weight, None, "layer+other"))(x)

    plain, kept = (np.abs(product(names) - exact).max(axis=1) for names in ((), ("layer",)))
    scale = np.abs(exact).max(axis=1)
    assert plain[1] > 0.9 * scale[1]  # all but lost
    assert (kept < 0.04 * scale).all()


def test_kept_rows_are_independent_too(tmp_path: Path) -> None:
    run = graph(tmp_path, linear(Int8Linear(["layer"])))
    x = RNG.normal(size=(33, 64)).astype(np.float32)
    x[7] *= 1000
    together = run(x)
    for index in (0, 7, 32):
        assert np.array_equal(run(x[index : index + 1])[0], together[index])


def test_int8_rows_are_independent(tmp_path: Path) -> None:
    run = graph(tmp_path, linear(Int8Linear()))
    x = RNG.normal(size=(33, 64)).astype(np.float32)
    x[7] *= 1000  # would ruin its neighbours if they shared its scale
    together = run(x)
    for index in (0, 7, 32):
        assert np.array_equal(run(x[index : index + 1])[0], together[index])


def test_a_row_of_zeros_gives_the_bias(tmp_path: Path) -> None:
    x = RNG.normal(size=(3, 64)).astype(np.float32)
    x[1] = 0
    y = graph(tmp_path, linear(Int8Linear()))(x)
    assert np.array_equal(y[1], BIAS)
    assert np.isfinite(y).all()


def test_integer_sums_do_not_saturate(tmp_path: Path) -> None:
    """255 * 127 twice is more than 16 bits: the kernels without VNNI must be kept from that."""
    ones = np.ones((40, 64), np.float32)
    run = graph(tmp_path, lambda g, x: Int8Linear().linear(g, x, ones, None, "layer"))
    np.testing.assert_allclose(run(np.ones((2, 64), np.float32)), 64, rtol=1e-5)


@pytest.mark.parametrize("as_head", [False, True])
def test_int8_table(tmp_path: Path, as_head: bool) -> None:
    lowering, index = Int8Table(), np.array([3, 0, 39, 3], np.int64)
    run = graph(
        tmp_path,
        lambda g, x: lowering.lookup(g, lowering.table(g, "t", WEIGHT, as_head), x),
        np.int64,
    )
    rows = run(index)
    assert np.array_equal(rows[0], rows[3])
    quantized = quantize_rows(WEIGHT)
    expected = quantized.values.astype(np.float32) * quantized.scales[:, None]
    assert np.array_equal(rows, expected[index])
    assert np.abs(rows - WEIGHT[index]).max() < np.abs(WEIGHT).max() / 200


@pytest.mark.parametrize(("lowering", "error"), [(Fp32Table(), 1e-4), (Int8Table(), 0.6)])
def test_the_same_table_makes_logits(
    tmp_path: Path, lowering: Fp32Table | Int8Table, error: float
) -> None:
    run = graph(tmp_path, lambda g, x: lowering.logits(g, lowering.table(g, "t", WEIGHT, True), x))
    x = RNG.normal(size=(4, 64)).astype(np.float32)
    assert np.abs(run(x) - x @ WEIGHT.T).max() < error
    # Stored once: the file is no larger than one table, its scales and padding.
    size = (tmp_path / "weights.bin").stat().st_size
    assert size < WEIGHT.size * (1 if isinstance(lowering, Int8Table) else 4) + 2 * 4096


def test_quantised_rows() -> None:
    matrix = np.array([[1, -2, 4], [0, 0, 0], [1e-8, 0, -1e-8]], np.float32)
    values, scales = quantize_rows(matrix)
    assert values.tolist() == [[32, -64, 127], [0, 0, 0], [127, 0, -127]]
    assert scales[1] == 1
    np.testing.assert_allclose(values * scales[:, None], matrix, atol=4 / 254)


def test_weights_keep_shape_and_type(tmp_path: Path) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "scalar": np.array(3.5, np.float32),
        "small": np.arange(6, dtype=np.int64).reshape(2, 3),
        "large": RNG.normal(size=(64, 32)).astype(np.float32).T,  # not contiguous
        "bytes": RNG.integers(-127, 127, (50, 50), dtype=np.int8),
    }
    import onnx
    from onnx.external_data_helper import load_external_data_for_tensor

    with WeightsFile(tmp_path / "weights.bin") as weights:
        tensors = [weights.tensor(name, array) for name, array in arrays.items()]
    assert [bool(t.external_data) for t in tensors] == [False, False, True, True]
    for tensor, array in zip(tensors, arrays.values(), strict=True):
        if tensor.external_data:
            load_external_data_for_tensor(tensor, str(tmp_path))
        loaded = onnx.numpy_helper.to_array(tensor)
        assert loaded.shape == np.shape(array)
        assert loaded.dtype == array.dtype
        assert np.array_equal(loaded, array)
