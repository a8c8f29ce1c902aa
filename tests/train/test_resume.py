"""A run is resumed only with what it began with; what it is stands in its checkpoint."""

from __future__ import annotations

import dataclasses
import fcntl
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from altogether_rt.artifacts.checkpoint import Checkpoint
from altogether_rt.cli.main import app
from altogether_rt.errors import AltogetherError, ConfigError
from altogether_rt.train.data import FolderDataset, split_held_out
from altogether_rt.train.folder import run_folder
from altogether_rt.train.recipe import TrainRecipe, load_recipe
from altogether_rt.train.record import RunRecord
from altogether_rt.train.run import train
from altogether_rt.train.snapshot import checkpoint_of, write_snapshot
from tests.train.tiny import write_recipe


class Stop(Exception):
    """Stands in for a kill."""


def begin(recipe: TrainRecipe, out: Path, init: Path, data: Path, after: int = 2) -> None:
    """Train until the line of a step, whose state is not saved yet."""

    def say(line: str) -> None:
        if line.startswith(f"finetune {after + 1}/"):
            raise Stop

    with pytest.raises(Stop):
        train(recipe, out, init=init, data=data, threads=1, say=say)


def resume(recipe: TrainRecipe, out: Path, init: Path, data: Path) -> None:
    train(recipe, out, init=init, data=data, resume=True, threads=1, say=lambda _: None)


@pytest.fixture
def out(tmp_path: Path, finetune: TrainRecipe, undisturbed: Path, scenes: Path) -> Path:
    """The --out of a run that stopped after two of four steps."""
    begin(finetune, tmp_path / "mine", undisturbed, scenes)
    return tmp_path / "mine"


def test_another_recipe_is_refused_by_name(
    out: Path, finetune: TrainRecipe, undisturbed: Path, scenes: Path
) -> None:
    assert finetune.finetune is not None
    optimization = dataclasses.replace(finetune.finetune.optimization, peak_lr=0.5)
    stage = dataclasses.replace(finetune.finetune, optimization=optimization)
    other = dataclasses.replace(finetune, finetune=stage, seed=5, holdout=0.2)
    with pytest.raises(AltogetherError) as caught:
        resume(other, out, undisturbed, scenes)
    for part in (
        "recipe.seed (0 then, 5 now)",
        "recipe.holdout (0.0 then, 0.2 now)",
        "recipe.finetune.optimization.peak_lr (0.0002 then, 0.5 now)",
    ):
        assert part in str(caught.value)
    assert not out.exists()
    resume(dataclasses.replace(finetune, log_every_steps=3), out, undisturbed, scenes)


def test_another_configuration_is_refused_by_name(tmp_path: Path) -> None:
    """One with the same shapes, which the saved weights would fit; its file may be renamed."""
    recipe, out = load_recipe(str(write_recipe(tmp_path))), tmp_path / "mine"

    def say(line: str) -> None:
        if line.startswith("pretrain 4/"):
            raise Stop

    with pytest.raises(Stop):
        train(recipe, out, threads=1, say=say)
    first = tmp_path / "config.toml"
    other = tmp_path / "other.toml"
    other.write_text(first.read_text().replace("eos_id = 2", 'eos_id = 2\nactivation = "gelu"'))
    changed = dataclasses.replace(recipe, config=str(other))
    with pytest.raises(
        AltogetherError, match=r"this: config\.decoder\.activation \(relu then, gelu now\)\. Give"
    ):
        train(changed, out, resume=True, threads=1, say=lambda _: None)
    moved = dataclasses.replace(recipe, config=str(first.rename(tmp_path / "moved.toml")))
    train(moved, out, resume=True, threads=1, say=lambda _: None)
    assert Checkpoint.load(out).config.decoder.activation == "relu"


@pytest.mark.parametrize("change", ["image", "caption", "row"])
def test_other_data_are_refused_by_name(
    out: Path, finetune: TrainRecipe, undisturbed: Path, scenes: Path, change: str
) -> None:
    rows = scenes.read_text().splitlines(keepends=True)
    if change == "image":
        (scenes.parent / "0001.png").write_bytes((scenes.parent / "0002.png").read_bytes())
        says = "images have changed"
    elif change == "caption":
        row = json.loads(rows[3])
        row["rounds"][-1] += " Indeed."
        scenes.write_text("".join([*rows[:3], json.dumps(row) + "\n", *rows[4:]]))
        says = "captions, alt-texts or names have changed"
    else:
        scenes.write_text("".join(rows[:-1]))
        says = r"8 examples then, 7 now"
    with pytest.raises(AltogetherError, match=says):
        resume(finetune, out, undisturbed, scenes)
    with pytest.raises(AltogetherError, match=says):  # a refusal does not make it the run's data
        resume(finetune, out, undisturbed, scenes)


def test_data_may_lie_elsewhere(
    out: Path, finetune: TrainRecipe, undisturbed: Path, scenes: Path, tmp_path: Path
) -> None:
    scenes.parent.rename(tmp_path / "moved")
    resume(finetune, out, undisturbed, tmp_path / "moved" / scenes.name)
    assert Checkpoint.load(out).about["data"]["examples"] == 8


def test_another_init_is_refused_by_name(
    out: Path, finetune: TrainRecipe, undisturbed: Path, scenes: Path, tmp_path: Path
) -> None:
    train(
        finetune, tmp_path / "other", init=undisturbed, data=scenes, threads=1, say=lambda _: None
    )
    with pytest.raises(AltogetherError, match=r"init\.sha256 \(\w{12} then, \w{12} now\)"):
        resume(finetune, out, tmp_path / "other", scenes)


def test_the_checkpoint_says_what_it_was_trained_on(
    out: Path, finetune: TrainRecipe, undisturbed: Path, scenes: Path, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(finetune, holdout=0.3)
    train(recipe, tmp_path / "held", init=undisturbed, data=scenes, threads=1, say=lambda _: None)
    about = Checkpoint.load(tmp_path / "held").about
    assert about["recipe"]["finetune"]["optimization"]["batch_size"] == 4
    assert about["recipe"]["data"]["path"] == "references.jsonl", "no path of this machine"
    assert about["init"]["sha256"] == Checkpoint.load(undisturbed).sha256()
    assert about["versions"].keys() >= {"altogether_rt", "torch", "numpy", "python"}
    data, stage = about["data"], about["stages"]["finetune"]
    assert (data["source"], data["examples"]) == ("folder", 8)
    assert 1 <= data["held_out"] <= 6
    rows = [
        json.loads(line)
        for line in (tmp_path / "held.training" / "metrics.jsonl").read_text().splitlines()
    ]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert stage["steps"] == 4
    assert stage["loss"]["last_loss"] == losses[4]
    assert stage["loss"]["best_loss"] == min(losses.values())
    assert losses[stage["loss"]["best_step"]] == min(losses.values())
    (first, last) = [row["held_out"] for row in rows if "held_out" in row]
    assert first.keys() == {"loss", "token_accuracy"}
    assert last.keys() == {"loss", "token_accuracy", "cider_d", "bleu_4"}
    assert stage["held_out"]["last_loss"] == last["loss"]
    assert stage["held_out"]["cider_d"] == last["cider_d"]
    resume(finetune, out, undisturbed, scenes)
    plain = Checkpoint.load(out).about
    assert plain["stages"]["finetune"]["held_out"] == {}
    assert plain["data"]["images_sha256"] == data["images_sha256"]


def test_a_single_held_out_image_is_measured(
    finetune: TrainRecipe, undisturbed: Path, scenes: Path, tmp_path: Path
) -> None:
    """CIDEr-D of one image is undefined: it is left out, and the run ends as any other."""
    recipe, out = dataclasses.replace(finetune, holdout=0.001), tmp_path / "held"
    train(recipe, out, init=undisturbed, data=scenes, threads=1, say=lambda _: None)
    about = Checkpoint.load(out).about
    assert about["data"]["held_out"] == 1
    figures = about["stages"]["finetune"]["held_out"]
    assert {"last_loss", "token_accuracy", "bleu_4"} <= figures.keys()
    assert "cider_d" not in figures


def test_held_out_images_do_not_change_the_weights(
    finetune: TrainRecipe, undisturbed: Path, scenes: Path, tmp_path: Path
) -> None:
    """Weights with other captions of the held-out images are the same bits."""
    recipe = dataclasses.replace(finetune, holdout=0.3)
    weights, held_out_losses = [], []
    for name in ("one", "two"):
        out = tmp_path / name
        train(recipe, out, init=undisturbed, data=scenes, threads=1, say=lambda _: None)
        weights.append(load_file(out / "model.safetensors"))
        about = Checkpoint.load(out).about
        held_out_losses.append(about["stages"]["finetune"]["held_out"]["last_loss"])
        rows = [json.loads(line) for line in scenes.read_text().splitlines()]
        for index in split_held_out(FolderDataset(scenes), 0.3)[1]:
            rows[index]["rounds"] = ["Quite another caption of it."]
        scenes.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert held_out_losses[0] != held_out_losses[1]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_a_resumed_run_remembers_its_losses(
    out: Path, finetune: TrainRecipe, undisturbed: Path, scenes: Path, tmp_path: Path
) -> None:
    resume(finetune, out, undisturbed, scenes)
    train(
        finetune, tmp_path / "whole", init=undisturbed, data=scenes, threads=1, say=lambda _: None
    )
    resumed, whole = (Checkpoint.load(path).about for path in (out, tmp_path / "whole"))
    assert resumed["stages"] == whole["stages"]
    assert Checkpoint.load(out).sha256() == Checkpoint.load(tmp_path / "whole").sha256()


def test_a_running_training_can_be_exported(
    out: Path, finetune: TrainRecipe, undisturbed: Path, scenes: Path, tmp_path: Path
) -> None:
    folder = run_folder(out)
    said: list[str] = []
    for source in (folder, out):  # the checkpoint that is not there yet stands for its run
        with checkpoint_of(source, said.append) as checkpoint:
            found = Checkpoint.load(checkpoint)
            assert found.about["snapshot"] == {"stage": "finetune", "step": 2}
            assert found.about["data"]["examples"] == 8
            assert found.captioner().encoder is not None
            state = torch.load(folder / "state-finetune.pt", weights_only=True)["module"]
            assert torch.equal(
                load_file(found.weights_path)["mapper.linear.weight"], state["mapper.linear.weight"]
            )
    assert "state of the stage finetune after 2 steps" in said
    assert any("is not finished" in line for line in said)
    with checkpoint_of(undisturbed, said.append) as same:
        assert same == undisturbed
    # It can also be trained on.
    train(finetune, tmp_path / "more", init=folder, data=scenes, threads=1, say=lambda _: None)
    about = Checkpoint.load(tmp_path / "more").about
    assert about["init"]["name"] == folder.name


def test_every_state_that_a_reader_finds_is_whole(
    finetune: TrainRecipe, undisturbed: Path, scenes: Path, tmp_path: Path
) -> None:
    """Read after each line that a run says, wherever it is."""
    steps: list[int] = []

    def say(line: str) -> None:
        folder = tmp_path / "mine.training"
        if (folder / "state-finetune.pt").exists():
            out = tmp_path / f"snapshot-{len(steps)}"
            write_snapshot(folder, out)
            steps.append(Checkpoint.load(out).about["snapshot"]["step"])
            Checkpoint.load(out).captioner()
        elif (folder / "run.json").exists():
            with pytest.raises(AltogetherError, match="has saved no captioner yet"):
                write_snapshot(folder, tmp_path / "none")

    train(finetune, tmp_path / "mine", init=undisturbed, data=scenes, threads=1, say=say)
    assert steps == sorted(steps)
    assert {1, 2, 3} <= set(steps)


@pytest.mark.parametrize("former", [False, True])
def test_a_run_that_is_refused_leaves_what_was_there(
    finetune: TrainRecipe, undisturbed: Path, scenes: Path, tmp_path: Path, former: bool
) -> None:
    folder = tmp_path / "mine.training"
    if former:
        folder.mkdir()
    said: list[str] = []
    for init, data in (
        (undisturbed, scenes.with_name("alts.jsonl")),  # without captions
        (tmp_path / "absent", scenes),
        (None, scenes),  # the recipe trains no tokenizer
    ):
        with pytest.raises(AltogetherError):
            train(finetune, tmp_path / "mine", init=init, data=data, say=said.append)
        assert folder.exists() == former
    train(finetune, tmp_path / "mine", init=undisturbed, data=scenes, threads=1, say=said.append)


def test_a_folder_without_a_state_can_be_begun_anew(
    finetune: TrainRecipe, undisturbed: Path, scenes: Path, tmp_path: Path
) -> None:
    """What was prepared is kept; another recipe is no contradiction yet."""
    (scenes.parent / "0003.png").write_text("404")
    with pytest.raises(AltogetherError, match="1 of 8 images"):
        train(finetune, tmp_path / "mine", init=undisturbed, data=scenes, say=lambda _: None)
    other = dataclasses.replace(finetune, seed=9)
    train(
        other, tmp_path / "mine", init=undisturbed, data=scenes, skip_bad=True, threads=1,
        say=lambda _: None,
    )  # fmt: skip
    about = Checkpoint.load(tmp_path / "mine").about
    assert (about["data"]["examples"], about["data"]["images_left_out"]) == (7, 1)
    assert about["recipe"]["seed"] == 9


def test_two_trainings_do_not_share_a_folder(
    finetune: TrainRecipe, undisturbed: Path, scenes: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mine.training"
    folder.mkdir()
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(AltogetherError, match="another process is training in"):
            train(finetune, tmp_path / "mine", init=undisturbed, data=scenes)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"recipe": 1}', '{"surplus": {}}', '{"recipe": {}, "config": 3, "init": null}'],
)
def test_a_record_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(AltogetherError, match="is not the record of a training run"):
        RunRecord.read(tmp_path)


def test_shares_out_of_range_are_refused(finetune: TrainRecipe) -> None:
    with pytest.raises(ConfigError, match="holdout"):
        dataclasses.replace(finetune, holdout=1.0)


def test_export_takes_the_folder_of_a_run(out: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    options = ["--ckpt", run_folder(out), "--target", "cpu-fp32", "--out", bundle, "-q"]
    done = CliRunner().invoke(app, ["export", *map(str, options)])
    assert done.exit_code == 0, done.output
    manifest = json.loads((bundle / "bundle.json").read_text())
    about = manifest["provenance"]["checkpoint"]["about"]
    assert about["snapshot"] == {"stage": "finetune", "step": 2}
