"""`altogether-rt train`: which recipe an option means."""

from __future__ import annotations

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
