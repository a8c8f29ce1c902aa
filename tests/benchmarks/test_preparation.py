"""Files and environments that contestants need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness.contestant import BENCHMARKS
from peers.contestants import CONTESTANTS, ENVIRONMENTS, REFERENCE
from peers.environments import folder_bytes
from peers.preparation import CONFIGS, HERE, STEPS, environments_for, steps_for

from altogether_rt.config import named_configs


@pytest.mark.parametrize("contestant", [*CONTESTANTS, REFERENCE], ids=lambda c: c.name)
def test_contestants_are_complete(contestant: Any, tmp_path: Path) -> None:
    assert contestant.environment in ENVIRONMENTS
    module, name = contestant.adapter.split(":")
    path = BENCHMARKS / f"{module.replace('.', '/')}.py"
    assert f"class {name}(" in path.read_text("utf-8")
    assert set(contestant.files.values()) <= STEPS.keys()
    options = contestant.load_options(tmp_path, pad_id=1)
    assert options["pad_id"] == 1
    for option, file in contestant.files.items():
        assert options[option] == str(tmp_path / file)
    assert set(contestant.modes) <= set(REFERENCE.modes)


def test_names_are_unique() -> None:
    assert len({c.name for c in CONTESTANTS}) == len(CONTESTANTS)
    assert set(CONFIGS.values()) <= set(named_configs())


def test_steps_come_after_what_they_need() -> None:
    assert steps_for(["onnx", "ours-int8", "huggingface"]) == [
        "checkpoint",
        "huggingface",
        "onnx",
        "ours-int8",
    ]
    for step in STEPS.values():
        assert step.environment in ENVIRONMENTS
        script = step.command[0].format(here=HERE)
        assert script == "-m" or Path(script).is_file()


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    assert environments_for(tmp_path, ["onnx"]) == ["optimum-onnx", "public", "tools"]
    for name in ("checkpoint", "huggingface"):
        (tmp_path / name).mkdir()
    assert environments_for(tmp_path, ["onnx"]) == ["optimum-onnx"]
    (tmp_path / "onnx").mkdir()
    assert environments_for(tmp_path, ["onnx"]) == []


def test_size_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "inner" / "file")
    assert folder_bytes(tmp_path) == 5
