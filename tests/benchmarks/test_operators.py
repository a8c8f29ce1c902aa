"""Operators of the starter's graphs, and of made-up profiles."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import operators
import pytest

from altogether_rt.bench.ceilings import Ceilings


def event(kind: str, at: int, took: int, shapes: tuple[list[int], list[int]] | None = None) -> Any:
    arguments: dict[str, Any] = {"op_name": kind}
    if shapes is not None:
        arguments["input_type_shape"] = [{"uint8": shapes[0]}, {"float": []}]
        arguments["output_type_shape"] = [{"float": shapes[1]}]
    return {
        "cat": "Node",
        "name": f"{kind}_1_kernel_time",
        "ts": at,
        "dur": took,
        "args": arguments,
    }


def test_operators_belong_to_the_run_they_were_in() -> None:
    events = [
        {"cat": "Session", "name": "model_run", "ts": 100, "dur": 50, "args": {}},
        event("MatMulIntegerToFloat", 101, 20, ([3, 2, 8], [3, 2, 5])),
        event("Add", 122, 4),
        event("Add", 130, 2),
        {**event("Add", 131, 99), "name": "Add_1_fence_before"},
        {"cat": "Session", "name": "model_run", "ts": 200, "dur": 50, "args": {}},
        event("Add", 201, 8),
    ]
    first, second = operators.read_profile(events)
    assert first.seconds == Counter(
        {"MatMulIntegerToFloat": pytest.approx(20e-6), "Add": pytest.approx(6e-6)}
    )
    assert second.seconds == Counter({"Add": pytest.approx(8e-6)})
    assert first.product_s == pytest.approx(20e-6)
    assert (first.product_operations, first.product_weights) == (2 * 6 * 8 * 5, 8 * 5)
    assert second.product_s == second.product_weights == 0


def test_the_starter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        operators, "measure_ceilings", lambda threads: Ceilings(2, 7e11, 1e11, 4e10)
    )
    options = ["--rows", "1,3", "--repeats", "2", "--budget-s", "0.01", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["operators.py", *options])
    operators.main()
    result = json.loads((tmp_path / "operators-starter.json").read_text())
    steps = ["prefill ×1", "prefill ×3", "decode ×1", "decode ×3", "verify 4 ×1", "verify 8 ×1"]
    assert {name for name in result["calls"] if name[:2] not in ("en", "ma")} == set(steps)
    for name, figures in result["calls"].items():
        operators_ms = figures["operators_ms"]
        assert figures["call_ms"] > 0
        assert sum(operators_ms.values()) > figures["products"]["ms"] > 0
        assert operators_ms["MatMulIntegerToFloat"] > 0
        assert ("GroupQueryAttention" in operators_ms) == (name in steps)
    # The same weights for a token as for eight, and eight times the work.
    one, eight = (result["calls"][name]["products"] for name in ("decode ×1", "verify 8 ×1"))
    weights, work = (
        [products[rate] * products["ms"] for products in (one, eight)]
        for rate in ("gb_per_s", "gop_per_s")
    )
    assert weights[1] == pytest.approx(weights[0], rel=0.1)
    assert work[1] == pytest.approx(8 * work[0], rel=0.1)
    table = capsys.readouterr().out
    assert table.strip() == (tmp_path / "operators-starter.md").read_text().strip()
    assert "| **call** |" in table and "memory 40.0 GB/s" in table


def test_a_bundle_that_runs_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["operators.py", "--bundle", "nowhere"])
    with pytest.raises(SystemExit, match="nowhere"):
        operators.main()
