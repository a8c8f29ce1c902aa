"""Weights in 4 bits: what is stored, what compensation gains, and what onnxruntime makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from altogether_rt.export.graph import GraphBuilder
from altogether_rt.export.lowering.group_linear import GroupLinear
from altogether_rt.export.lowering.groups import (
    _inverse_factor,
    group_for,
    pack_halves,
    quantize_groups,
)
from altogether_rt.export.weights import WeightsFile
from altogether_rt.runtime.ort_session import open_session

RNG = np.random.default_rng(5)
Floats = NDArray[np.float32]
GROUP = 32


def correlated(rows: int, inner: int) -> Floats:
    """Inputs of which a few directions make up most, as in real layers."""
    basis = RNG.normal(size=(inner // 8, inner))
    noise = 0.1 * RNG.normal(size=(rows, inner))
    result: Floats = (RNG.normal(size=(rows, inner // 8)) @ basis + noise).astype(np.float32)
    return result


def run(folder: Path, weight: Floats, lowering: GroupLinear) -> Callable[[Floats], Floats]:
    """The product as onnxruntime computes it."""
    with WeightsFile(folder / "weights.bin") as file:
        g = GraphBuilder("g", file)
        x = g.input("x", np.float32, ["T", weight.shape[1]])
        y = lowering.linear(g, x, weight, None, "decoder.layers.0.fc1")
        g.output(y, "y", np.float32, ["T", len(weight)])
    g.save(folder / "g.onnx")
    session = open_session(folder / "g.onnx", threads=1)
    return lambda x: session.run(None, {"x": x})[0]


@pytest.mark.parametrize("inner", [64, 96, 80])
def test_every_weight_is_within_a_step(inner: int) -> None:
    """Half a step for the rounding, and what clipping a fifth of the range may cut off."""
    weight = RNG.normal(size=(24, inner)).astype(np.float32)
    weight[3] = 0
    weight[5] = np.abs(weight[5])  # one sign: the zero point is at an end
    groups = quantize_groups(weight, group=GROUP)
    assert groups.values.max() <= 15
    kept = groups.weight()[:, :inner]
    ranges = [weight[:, i : i + GROUP] for i in range(0, inner, GROUP)]
    spans = np.stack([r.max(1).clip(0) - r.min(1).clip(None, 0) for r in ranges], axis=1)
    allowed = np.repeat(spans * (0.5 / 15 + 0.2), GROUP, axis=1)[:, :inner] + 1e-6
    assert (np.abs(kept - weight) <= allowed).all()
    relative = np.square(kept - weight).sum() / np.square(weight).sum()
    assert relative < 0.008  # of a normal distribution: a twelfth of (2 · 2.1 / 15) squared


def test_weights_that_fit_are_exact() -> None:
    values = RNG.integers(0, 16, (8, 2 * GROUP))
    values[:, ::GROUP], values[:, 1::GROUP] = 0, 15
    weight = ((values - 7) * 0.25).astype(np.float32)
    groups = quantize_groups(weight, group=GROUP)
    np.testing.assert_array_equal(groups.values, values)
    np.testing.assert_allclose(groups.weight(), weight, rtol=1e-6)


def test_compensation_halves_the_error_of_the_product_on_other_inputs() -> None:
    weight = RNG.normal(size=(48, 256)).astype(np.float32)
    inputs = correlated(1200, 256)
    seen, unseen = inputs[:1000], inputs[1000:]
    lost = [
        np.square(unseen @ (quantize_groups(weight, given, group=GROUP).weight() - weight).T).sum()
        for given in (None, seen)
    ]
    assert lost[1] < 0.5 * lost[0]


@pytest.mark.parametrize("inner", [64, 640, 1000])
def test_the_factor_is_that_of_the_inverted_moments(inner: int) -> None:
    """Found without inverting them; 640 is halved twice, 1,000 is filled up to whole groups."""
    width = -(-inner // 128) * 128
    inputs = correlated(400, inner)
    padded = np.zeros((400, width), np.float32)
    padded[:, :inner] = inputs
    moments = (padded.T @ padded).astype(np.float64)
    moments += 0.05 * np.trace(moments) / width * np.eye(width)
    wanted = np.linalg.cholesky(np.linalg.inv(moments)).T
    found = _inverse_factor(inputs, width)
    assert np.abs(found - wanted).max() < 1e-6 * np.abs(wanted).max()
    assert (np.tril(found, -1) == 0).all()


@pytest.mark.parametrize("group", [32, 128])
def test_the_last_group_may_be_smaller(group: int) -> None:
    weight = RNG.normal(size=(16, 192)).astype(np.float32)
    groups = quantize_groups(weight, correlated(300, 192), group=group)
    assert groups.scales.shape == (16, -(-192 // group))
    assert groups.values.shape == (16, groups.scales.shape[1] * group)
    kept = groups.weight()[:, :192]
    assert np.square(kept - weight).sum() < 0.03 * np.square(weight).sum()


def test_wide_decoders_have_large_groups_that_divide_them() -> None:
    widths = (576, 960, 1024, 1152, 1600, 2048)
    assert [group_for(width) for width in widths] == [32, 32, 256, 128, 128, 256]


def test_inputs_that_were_never_seen_do_no_harm() -> None:
    weight = RNG.normal(size=(16, 64)).astype(np.float32)
    groups = quantize_groups(weight, np.zeros((10, 64), np.float32), group=GROUP)
    np.testing.assert_array_equal(groups.values, quantize_groups(weight, group=GROUP).values)


@pytest.mark.parametrize("inner", [64, 80, 288])
def test_products_are_those_of_the_stored_weights(inner: int, tmp_path: Path) -> None:
    weight = RNG.normal(size=(40, inner)).astype(np.float32)
    x = RNG.normal(size=(7, inner)).astype(np.float32)
    wanted = x @ quantize_groups(weight, group=GROUP).weight()[:, :inner].T
    found = run(tmp_path, weight, GroupLinear())(x)
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()  # activations are int8


@pytest.mark.parametrize("shape", [(960, 576), (576, 1536), (3072, 576), (40, 96)])
def test_a_row_has_the_same_bits_in_any_batch(shape: tuple[int, int], tmp_path: Path) -> None:
    """So a caption does not depend on its neighbours, nor on drafts that are verified with it."""
    weight = RNG.normal(size=shape).astype(np.float32)
    product = run(tmp_path, weight, GroupLinear())
    x = RNG.normal(size=(37, shape[1])).astype(np.float32)
    x[7] *= 1000
    whole = product(x)
    for rows in (1, 2, 3, 4, 5, 7, 8, 16, 33):
        for start in range(0, len(x) - rows + 1, rows):
            part = product(x[start : start + rows])
            np.testing.assert_array_equal(part, whole[start : start + rows])


def test_an_outlier_takes_precision_from_its_own_group_alone(tmp_path: Path) -> None:
    weight = RNG.normal(size=(32, 128)).astype(np.float32)
    weight[:, 20] = 0
    x = RNG.normal(size=(1, 128)).astype(np.float32)
    x[0, 20] = 3000
    groups = quantize_groups(weight, group=GROUP).weight()
    groups[:, :GROUP] = 0
    found = run(tmp_path, weight, GroupLinear())(x)
    others = x @ groups.T
    own = np.abs(x[:, :GROUP] @ weight[:, :GROUP].T).max()
    assert np.abs(found - others).max() < 3 * own


def test_halves_are_packed_the_lower_first() -> None:
    assert pack_halves(np.array([[1, 2, 15]], np.uint8)).tolist() == [[0x21, 0x0F]]


def test_kept_products_and_other_graphs_are_int8(tmp_path: Path) -> None:
    weight = RNG.normal(size=(16, 64)).astype(np.float32)
    with WeightsFile(tmp_path / "weights.bin") as file:
        g = GraphBuilder("g", file)
        x = g.input("x", np.float32, ["T", 64])
        lowering = GroupLinear(["decoder.layers.1.q"])
        for name in ("decoder.layers.1.q+layers.1.k", "mapper.layers.0.q", "decoder.head"):
            lowering.linear(g, x, weight, None, name)
        kinds = {node.op_type for node in g._nodes}
    assert "MatMulNBits" not in kinds
    assert "Split" in kinds  # of the two terms
