"""`altogether-rt train`: which recipe an option means."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from altogether_rt.cli.main import app
from altogether_rt.train.recipe import TrainRecipe, load_recipe

RECIPE = 'config = "starter"\nseed = 41\n'


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[TrainRecipe]:
    """The recipes that the command would have trained."""
    pytest.importorskip("torch", reason="needs the extra train")
    recipes: list[TrainRecipe] = []

    def train(recipe: TrainRecipe, out: Path, **options: Any) -> None:
        recipes.append(recipe)

    monkeypatch.setattr("altogether_rt.train.run.train", train)
    return recipes


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.mark.parametrize("option", ["--recipe", "--config"])
def test_a_recipe_is_a_name_or_a_file(
    tmp_path: Path, trained: list[TrainRecipe], option: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)
    for recipe in ("starter", path):
        result = run(option, recipe, "--out", tmp_path / "ckpt")
        assert result.exit_code == 0, result.stderr
    assert [recipe.seed for recipe in trained] == [load_recipe("starter").seed, 41]


def test_the_starter_is_the_default(tmp_path: Path, trained: list[TrainRecipe]) -> None:
    assert run("--out", tmp_path / "ckpt").exit_code == 0
    assert trained == [load_recipe("starter")]


def test_only_the_option_recipe_is_shown(tmp_path: Path, trained: list[TrainRecipe]) -> None:
    shown = run("--help").stdout
    assert "--recipe" in shown
    assert "--config" not in shown
    both = run("--recipe", "starter", "--config", "starter", "--out", tmp_path / "ckpt")
    assert both.exit_code == 2
    assert "give --recipe alone" in both.stderr
    assert trained == []


def test_a_checkpoint_to_start_from_needs_nothing_of_the_extra_export(tmp_path: Path) -> None:
    """The extra `train` brings no onnx, which a bundle is read with and a checkpoint is not."""
    pytest.importorskip("torch", reason="needs the extra train")
    (tmp_path / "config.json").write_text("{}")
    code = (
        "import sys; sys.modules |= dict.fromkeys(['onnx', 'onnxruntime', 'onnxscript']);"
        "import altogether_rt.train.run; from altogether_rt.cli.main import app;"
        "altogether_rt.train.run.train = lambda *_, init, **options: print('from', init);"
        "app()"
    )
    for init, said in ((tmp_path, f"from {tmp_path}"), ("starter", "train needs onnx")):
        command = [sys.executable, "-c", code, "train", "--init", init, "--out", tmp_path / "out"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert said in done.stdout + done.stderr
