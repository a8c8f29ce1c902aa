"""A run that several modules of tests look at, and a small dataset to go on from it with."""

from __future__ import annotations

from pathlib import Path

import pytest

from altogether_rt.scenes.dataset import write_scenes
from altogether_rt.train.recipe import TrainRecipe, load_recipe
from altogether_rt.train.run import train
from tests.train.tiny import write_recipe


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    train(load_recipe(str(write_recipe(folder))), folder / "ckpt", threads=1, say=lambda _: None)
    return folder / "ckpt"


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A training file of eight scenes."""
    list(write_scenes(tmp_path / "scenes", 8, seed=1, split="train"))
    return tmp_path / "scenes" / "references.jsonl"


@pytest.fixture
def finetune(tmp_path: Path) -> TrainRecipe:
    """Four steps of fine-tuning, each saved."""
    path = tmp_path / "finetune.toml"
    path.write_text(
        'config = "unused"\nsave_every_steps = 1\nsample_every_steps = 2\nlog_every_steps = 1\n'
        "[finetune.optimization]\nnum_steps = 4\nbatch_size = 4\nwarmup_steps = 1\n"
    )
    return load_recipe(str(path))
