from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import altogether_rt.export.recipes as recipes
from altogether_rt.errors import AltogetherError, ConfigError
from altogether_rt.export.recipes import find_recipe, load_recipe, recipe_folder, target_names

TEXT = (Path(__file__).parents[2] / "export" / "recipes" / "cpu-int8.toml").read_text("utf-8")


def test_every_target_is_documented(root: Path) -> None:
    names = target_names()
    assert {"cpu-fp32", "cpu-int8"} <= set(names)
    table = (root / "export" / "README.md").read_text("utf-8")
    assert [name for name in names if f"| `{name}` |" not in table] == []


def test_a_recipe_says_all(root: Path) -> None:
    recipe = find_recipe("cpu-int8")
    assert recipe.target.name == "cpu-int8"
    assert (recipe.target.runtime, recipe.target.device) == ("onnxruntime", "cpu")
    assert recipe.lowering.linear == "int8-row"
    assert set(recipe.parity) == {"encoder", "mapper", "prefill", "step"}
    assert find_recipe("cpu-fp32").parity["step"].worst > recipe.parity["step"].worst


def test_an_unknown_target_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match="there is no target 'gpu': choose one of cpu-fp32, cpu-int4, cpu-int8"
    ):
        find_recipe("gpu")
    with pytest.raises(ConfigError):
        find_recipe("../recipes/cpu-int8")


def test_found_in_a_checkout_and_in_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "altogether_rt" / "export"
    package.mkdir(parents=True)
    monkeypatch.setattr(recipes, "__file__", str(package / "recipes.py"))
    with pytest.raises(AltogetherError, match="no export recipes: reinstall"):
        recipe_folder()
    checkout = tmp_path / "export" / "recipes"
    checkout.mkdir(parents=True)
    assert recipe_folder() == checkout
    (package / "recipes").mkdir()
    assert recipe_folder() == package / "recipes"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('linear = "int8-row"', 'linear = "int9"', "linear is 'int9'; it must be one of"),
        ('device = "cpu"', "", "missing key device"),
        ('device = "cpu"', 'device = "cpu"\nspeed = "high"', "unknown key speed"),
        ("[parity.step]", "[parity.stop]", "parity needs exactly"),
        ("worst = 0.99\n", "worst = 2.0\n", "-1 <= worst <= mean"),
        ("[lowering]", "[lowering", "is not valid TOML"),
        ("keep_budget = 0.45", "keep_budget = 45", "keep_budget must be between 0 and 1"),
        ("keep_target = 0.002", "keep_target = -1", "keep_target at least 0"),
        ('linear = "int8-row"', 'linear = "fp32"', "need linear to be one of int8-row"),
    ],
)
def test_a_bad_recipe(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in TEXT
    path = tmp_path / "mine.toml"
    path.write_text(TEXT.replace(old, new), "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def test_groups_of_4_bit_weights_follow_the_width_unless_the_recipe_says() -> None:
    recipe = find_recipe("cpu-int4")
    for width, group in ((576, 32), (2048, 256)):
        resolved = recipe.for_decoder(width)
        assert resolved.lowering.group == resolved.target.group == group
    forced = replace(recipe, lowering=replace(recipe.lowering, group=64)).for_decoder(2048)
    assert forced.lowering.group == forced.target.group == 64
    assert find_recipe("cpu-int8").for_decoder(2048) == find_recipe("cpu-int8")


@pytest.mark.parametrize(
    ("target", "group", "message"),
    [
        ("cpu-int4", 48, "lowering.group must be one of 32, 64, 128, 256"),
        ("cpu-int8", 32, "lowering.group needs linear to be int4-group"),
    ],
)
def test_groups_that_cannot_be(target: str, group: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(find_recipe(target).lowering, group=group)
