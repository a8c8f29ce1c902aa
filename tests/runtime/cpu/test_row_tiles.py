"""Products in 4 bits whose rows agree bit for bit in calls of a multiple of some rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import altogether_rt.runtime.cpu.row_tiles as row_tiles
from altogether_rt.export.graph import GraphBuilder
from altogether_rt.export.lowering.group_linear import GroupLinear
from altogether_rt.export.weights import WeightsFile
from altogether_rt.runtime.cpu.row_tiles import row_multiple
from altogether_rt.runtime.ort_session import open_session

Floats = NDArray[np.float32]
RNG = np.random.default_rng(5)


def test_without_groups_any_number_of_rows_will_do() -> None:
    assert row_multiple(0) == 1


@pytest.mark.parametrize("group", [32, 64, 128, 256])
@pytest.mark.parametrize("shape", [(1000, 1024), (2048, 512)])
def test_a_row_has_the_same_bits_in_any_call_of_that_multiple(
    group: int, shape: tuple[int, int], tmp_path: Path
) -> None:
    """By two threads, beyond the 128 rows that a thread takes at once, at any position."""
    weight = RNG.normal(size=shape).astype(np.float32)
    with WeightsFile(tmp_path / "weights.bin") as file:
        g = GraphBuilder("g", file)
        x = g.input("x", np.float32, ["T", shape[1]])
        y = GroupLinear(group=group).linear(g, x, weight, None, "decoder.layers.0.fc1")
        g.output(y, "y", np.float32, ["T", shape[0]])
    g.save(tmp_path / "g.onnx")
    session = open_session(tmp_path / "g.onnx", threads=2)
    multiple = row_multiple(group)
    rows = RNG.normal(size=(288, shape[1])).astype(np.float32)
    rows[7] *= 1000
    (whole,) = session.run(None, {"x": rows})
    for count in (1, 2, 3, 5, 8, 11, 40, 65, 66, 131):
        count += -count % multiple
        for start in (0, 1, 6, 131):
            (part,) = session.run(None, {"x": rows[start : start + count]})
            np.testing.assert_array_equal(part, whole[start : start + count])


@pytest.mark.parametrize("tile", [1, 2, 4, 16])
def test_the_multiple_is_found(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that takes `tile` rows at a time, and the rest in another way."""

    def product(x: Floats) -> Floats:
        y = x[:, :8].copy()
        rest = len(y) % tile
        y[len(y) - rest :] += 1e-3
        return y

    monkeypatch.setattr(row_tiles, "_product", lambda group: product)
    assert row_multiple.__wrapped__(128) == tile
