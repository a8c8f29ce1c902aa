"""`benchmarks/gpu_profile.py` on a CPU: every stage in each arithmetic, a line each."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gpu_profile
import pytest


def test_every_stage_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, config = tmp_path / "profile.jsonl", Path(gpu_profile.__file__).parent / "gpu/tiny.toml"
    arguments = ["--device", "cpu", "--config", str(config), "--rows", "3", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["gpu_profile.py", *arguments])
    monkeypatch.setattr(gpu_profile, "BUDGET_S", 0.01)
    gpu_profile.main()
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert capsys.readouterr().out == out.read_text()
    stages = [(line["arithmetic"], line["stage"]) for line in lines if "stage" in line]
    names = ("encoder", "mapper", "prefill of 3", "decode step")
    assert stages == [(kind, name) for kind in gpu_profile.ARITHMETICS for name in names]
    assert all(line["kernels"] and line["ms"] > 0 for line in lines if "stage" in line)
    cosines = [line["cosine"] for line in lines if "compared" in line]
    assert cosines[:2] == [1, 1] and all(0.98 < each < 0.99999 for each in cosines[2:])
