"""Bounds of a training recipe's values: what is just outside is refused, what is at them is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from altogether_rt.errors import ConfigError
from altogether_rt.train.recipe import TrainRecipe, load_recipe

RECIPE = """
config = "starter"
{whole}
[data]
{data}
[encoder]
{encoder}
[encoder.optimization]
num_steps = 1
[finetune]
{stage}
[finetune.optimization]
num_steps = 1
{optimization}
"""


def load(path: Path, **tables: str) -> TrainRecipe:
    empty = dict.fromkeys(("whole", "data", "encoder", "stage", "optimization"), "")
    path.write_text(RECIPE.format(**{**empty, **tables}))
    return load_recipe(str(path))


@pytest.mark.parametrize(
    ("table", "name", "outside", "within"),
    [
        ("optimization", "peak_lr", ("0.0", "-1e-4", "inf", "nan"), ("1e-9", "10")),
        ("optimization", "lr_floor", ("-0.1", "1.1", "nan"), ("0", "1")),
        ("optimization", "warmup_steps", ("-1",), ("0",)),
        ("optimization", "beta1", ("-0.1", "1.0", "nan"), ("0", "0.999")),
        ("optimization", "beta2", ("-0.1", "1.0", "nan"), ("0", "0.999")),
        ("optimization", "eps", ("-1e-9", "inf", "nan"), ("0",)),
        ("optimization", "weight_decay", ("-0.1", "inf", "nan"), ("0",)),
        ("optimization", "max_grad_norm", ("0", "-1.0", "nan"), ("1e-3", "inf")),
        ("optimization", "batch_size", ("0",), ("1",)),
        ("optimization", "accumulation", ("0",), ("1", "512")),
        ("stage", "alt_dropout", ("-0.1", "1.1", "nan"), ("0", "1")),
        ("encoder", "fact_weight", ("-0.1", "inf", "nan"), ("0",)),
        ("data", "num_scenes", ("0",), ("1",)),
        ("whole", "seed", ("-1", "9223372036854775808"), ("0", "9223372036854775807")),
        ("whole", "save_every_steps", ("0", "-1"), ("1",)),
        ("whole", "log_every_steps", ("0", "-1"), ("1",)),
        ("whole", "sample_every_steps", ("0", "-1"), ("1",)),
        ("whole", "holdout", ("-0.1", "1.0", "nan"), ("0", "0.99")),
    ],
)
def test_values_that_no_run_can_have_are_refused(
    tmp_path: Path, table: str, name: str, outside: tuple[str, ...], within: tuple[str, ...]
) -> None:
    path = tmp_path / "mine.toml"
    for value in outside:
        with pytest.raises(ConfigError, match=rf"mine\.toml has a mistake: {name} ") as caught:
            load(path, **{table: f"{name} = {value}"})
        assert str(caught.value).endswith(".")
    for value in within:
        load(path, **{table: f"{name} = {value}"})
