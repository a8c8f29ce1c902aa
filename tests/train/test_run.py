"""Whole runs: both stages and the encoder, resumed after a kill, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from altogether_rt.artifacts.checkpoint import Checkpoint
from altogether_rt.errors import AltogetherError, ConfigError, Terminated
from altogether_rt.scenes.dataset import write_scenes
from altogether_rt.train.compute.interrupts import interrupts_noticed
from altogether_rt.train.recipe import TrainRecipe, load_recipe
from altogether_rt.train.run import train
from tests.train.tiny import write_recipe


def test_run_leaves_a_checkpoint_that_loads(undisturbed: Path) -> None:
    checkpoint = Checkpoint.load(undisturbed)
    assert checkpoint.has_encoder
    captioner = checkpoint.captioner()
    pixels = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    assert captioner.visual_tokens(captioner.encode(pixels)).shape == (2, 2, 16)


def test_every_stage_is_logged_with_samples(undisturbed: Path) -> None:
    folder = undisturbed.with_name("ckpt.training")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["task"] for row in rows if row["step"] == 6 and "loss" in row] == [
        "encoder", "pretrain", "finetune",
    ]  # fmt: skip
    assert all(row["samples_per_s"] > 0 for row in rows if "loss" in row)
    assert any("->" in row.get("sample", "") for row in rows)
    assert any(folder.glob("tensorboard/events.*"))


#: Killed between two saved states of the last stage, so that steps are lost and redone.
KILLED = """
import os, signal
from altogether_rt.cli.main import run
from altogether_rt.train.log import TrainLog
progress = TrainLog.progress
def progress_and_die(self, stage, step, *rest):
    progress(self, stage, step, *rest)
    if (stage, step) == ("finetune", 6):
        os.kill(os.getpid(), signal.SIGKILL)
TrainLog.progress = progress_and_die
run()
"""


def test_killed_run_goes_on_to_the_same_bits(undisturbed: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    arguments = [
        "train", "--config", str(recipe),
        "--out", str(tmp_path / "ckpt"), "--threads", "1", "--resume",
    ]  # fmt: skip
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "ckpt").exists()
    command = [sys.executable, "-m", "altogether_rt.cli.main", *arguments]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    wanted = load_file(undisturbed / "model.safetensors")
    found = load_file(tmp_path / "ckpt" / "model.safetensors")
    assert wanted.keys() == found.keys()
    for name, tensor in wanted.items():
        assert torch.equal(tensor, found[name]), name
    # Steps that were computed twice are in the log once.
    assert logged(tmp_path / "ckpt.training") == logged(undisturbed.with_name("ckpt.training"))


def logged(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's log, without what depends on its speed."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("samples_per_s", "eta_s")} for row in rows]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_the_step_and_the_run_ends_as_if_nothing_had_been(
    finetune: TrainRecipe, undisturbed: Path, scenes: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """After two of four steps: between two lines of the log, and two usual states."""
    recipe = dataclasses.replace(finetune, log_every_steps=3, save_every_steps=3)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("finetune 2  ["):
            signal.raise_signal(number)

    def run(out: str, say: Callable[[str], None], resume: bool = False) -> None:
        train(
            recipe, tmp_path / out, init=undisturbed, data=scenes, resume=resume, threads=1, say=say
        )

    run("whole", lambda _: None)
    with pytest.raises(
        KeyboardInterrupt, match=r"after step 2 of 4 of finetune, which is saved"
    ) as interrupted:
        run("mine", say)
    assert interrupted.type is (Terminated if number == signal.SIGTERM else KeyboardInterrupt)
    assert said[-1].startswith("finetune: finishing and saving a step")
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)
    run("mine", said.append, resume=True)
    assert "finetune: resuming at step 2 of 4" in said
    wanted, found = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "mine"))
    assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())
    assert logged(tmp_path / "mine.training") == logged(tmp_path / "whole.training")
    stages = [Checkpoint.load(tmp_path / name).about["stages"] for name in ("whole", "mine")]
    assert stages[0] == stages[1]


def test_a_second_ctrl_c_stops_at_once() -> None:
    told: list[str] = []

    def press_twice() -> None:
        with interrupts_noticed(lambda: told.append("once")) as came:
            assert not came()
            signal.raise_signal(signal.SIGINT)
            assert came()
            signal.raise_signal(signal.SIGINT)
            told.append("still there")

    with pytest.raises(KeyboardInterrupt):
        press_twice()
    assert told == ["once"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_after_the_last_question_is_not_swallowed() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts_noticed(lambda: None):
        signal.raise_signal(signal.SIGINT)


def test_training_from_a_checkpoint_learns_a_folder(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    list(write_scenes(folder, 2, seed=1, split="train"))
    recipe = tmp_path / "overfit.toml"
    recipe.write_text(
        'config = "unused"\n[finetune]\nalt_dropout = 0.0\n[finetune.optimization]\n'
        "num_steps = 60\nbatch_size = 2\npeak_lr = 1e-2\nwarmup_steps = 2\n"
    )
    losses: list[float] = []

    def say(line: str) -> None:
        if "loss" in line:
            losses.append(float(line.split("loss ")[1].split()[0]))

    train(
        load_recipe(str(recipe)),
        tmp_path / "ckpt",
        init=undisturbed,
        data=folder / "references.jsonl",
        threads=1,
        say=say,
    )
    assert losses[-1] < losses[0] / 2
    before, after = (
        load_file(path / "model.safetensors") for path in (undisturbed, tmp_path / "ckpt")
    )
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"mapper", "decoder"}, "the encoder is frozen"


def test_accumulation_changes_the_memory_not_the_gradient(tmp_path: Path) -> None:
    weights = []
    for accumulation in (1, 2):
        folder = tmp_path / str(accumulation)
        folder.mkdir()
        recipe = write_recipe(folder, steps=1)
        recipe.write_text(
            recipe.read_text()
            .replace("accumulation = 2", f"accumulation = {accumulation}")
            .replace("num_steps = 6", "num_steps = 1")
        )
        train(load_recipe(str(recipe)), folder / "ckpt", threads=1, say=lambda _: None)
        weights.append(load_file(folder / "ckpt" / "model.safetensors"))
    # Micro-batches have their own number of caption tokens, so the means differ a little.
    for name in ("decoder.layers.0.fc1.weight", "mapper.linear.weight"):
        one, two = (w[name].numpy() for w in weights)
        assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.999


def test_bf16_trains_float32_weights_to_nearly_the_same(undisturbed: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    recipe.write_text(
        recipe.read_text().replace("warmup_steps", 'precision = "bf16"\nwarmup_steps')
    )
    train(load_recipe(str(recipe)), tmp_path / "ckpt", threads=1, say=lambda _: None)
    wanted = load_file(undisturbed / "model.safetensors")
    found = load_file(tmp_path / "ckpt" / "model.safetensors")
    name = "decoder.layers.0.fc1.weight"
    assert found[name].dtype == torch.float32
    assert not torch.equal(found[name], wanted[name])
    one, two = (w[name].numpy().ravel() for w in (wanted, found))
    assert np.corrcoef(one, two)[0, 1] > 0.99


def test_unfinished_run_needs_resume_and_finished_one_is_kept(
    undisturbed: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path)))
    with pytest.raises(AltogetherError, match="already exists"):
        train(recipe, undisturbed)
    (tmp_path / "ckpt.training").mkdir()
    (tmp_path / "ckpt.training" / "state-pretrain.pt").touch()
    with pytest.raises(AltogetherError, match="--resume"):
        train(recipe, tmp_path / "ckpt")


def test_state_of_another_run_is_refused(undisturbed: Path, tmp_path: Path) -> None:
    training = tmp_path / "ckpt.training"
    training.mkdir()
    (training / "state-encoder.pt").write_bytes(b"not a state")
    recipe = load_recipe(str(write_recipe(tmp_path)))
    with pytest.raises(AltogetherError, match="not a state of this run"):
        train(recipe, tmp_path / "ckpt", resume=True, threads=1, say=lambda _: None)


def test_bad_recipes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('config = "starter"\nsteps = 3\n')
    with pytest.raises(ConfigError, match="unknown key steps"):
        load_recipe(str(path))
    path.write_text("config = \n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_recipe(str(path))
    path.write_text('config = "starter"\n[finetune.optimization]\nnum_steps = 0\n')
    with pytest.raises(ConfigError, match="num_steps must be at least 1"):
        load_recipe(str(path))
    with pytest.raises(ConfigError, match="there is no training recipe 'nonesuch'"):
        load_recipe("nonesuch")
    with pytest.raises(ConfigError, match="there is no training recipe"):
        load_recipe(str(tmp_path / "gone.toml"))


def test_shipped_recipe_is_valid() -> None:
    recipe = load_recipe("starter")
    assert recipe.encoder and recipe.pretrain and recipe.finetune
