"""Fine-tuning: adapters that end in an ordinary checkpoint, captioners of patch tokens, memory."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from typer.testing import CliRunner

from altogether_rt.artifacts.checkpoint import Checkpoint, save_checkpoint
from altogether_rt.cli.main import app
from altogether_rt.errors import AltogetherError, ConfigError, MissingDependencyError
from altogether_rt.importing.vision_language import import_vision_language
from altogether_rt.train.folder import run_folder
from altogether_rt.train.loop import read_state
from altogether_rt.train.recipe import TrainRecipe, load_recipe
from altogether_rt.train.run import train
from altogether_rt.train.snapshot import write_snapshot
from tests.importing.small_vlm import write_smolvlm
from tests.train.test_resume import begin, resume


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def finetuned(recipe: TrainRecipe, out: Path, init: Path, data: Path, **options: object) -> Path:
    train(recipe, out, init=init, data=data, threads=1, say=lambda _: None, **options)  # type: ignore[arg-type]
    return out


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a captioner whose decoder reads patch tokens."""
    folder = tmp_path_factory.mktemp("patches")
    write_smolvlm(folder / "published")
    config, state, tokenizer = import_vision_language(folder / "published", "small")
    config = replace(config, generation=replace(config.generation, max_new_tokens=16))
    save_checkpoint(folder / "ckpt", config, state, tokenizer, {})
    return folder / "ckpt"


@pytest.fixture
def lora(finetune: TrainRecipe) -> TrainRecipe:
    pytest.importorskip("peft", reason="needs the extra lora")
    return finetune.with_finetune(lora_rank=2, peak_lr=0.01)


def test_adapters_are_merged_into_an_ordinary_checkpoint(
    tmp_path: Path, lora: TrainRecipe, undisturbed: Path, scenes: Path
) -> None:
    out = finetuned(lora, tmp_path / "out", undisturbed, scenes)
    before, after = weights_of(undisturbed), weights_of(out)
    assert after.keys() == before.keys()
    Checkpoint.load(out).captioner()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    decoder = {name for name in changed if name.startswith("decoder.")}
    layers = ("q", "k", "v", "out", "fc1", "fc2")
    assert decoder == {f"decoder.layers.0.{layer}.weight" for layer in layers}
    assert "mapper.linear.weight" in changed
    assert not any(name.startswith("encoder.") for name in changed)


def test_what_is_merged_is_what_the_adapters_computed(
    tmp_path: Path, lora: TrainRecipe, undisturbed: Path, scenes: Path
) -> None:
    """W + alpha / r · B A, from the factors that the run's state holds."""
    out = finetuned(lora, tmp_path / "out", undisturbed, scenes)
    state = read_state(run_folder(out) / "state-finetune.pt")["module"]
    name = "decoder.layers.0.fc1"
    up, down = (state[f"{name}.lora_{factor}.default.weight"] for factor in "BA")
    assert up.shape == (32, 2) and down.shape == (2, 16)
    wanted = weights_of(undisturbed)[f"{name}.weight"] + 2.0 * up @ down
    torch.testing.assert_close(weights_of(out)[f"{name}.weight"], wanted)


def test_adapters_resume_with_the_same_bits(
    tmp_path: Path, lora: TrainRecipe, undisturbed: Path, scenes: Path
) -> None:
    whole = finetuned(lora, tmp_path / "whole", undisturbed, scenes)
    begin(lora, tmp_path / "cut", undisturbed, scenes)
    write_snapshot(run_folder(tmp_path / "cut"), tmp_path / "snapshot")
    assert weights_of(tmp_path / "snapshot").keys() == weights_of(whole).keys()
    resume(lora, tmp_path / "cut", undisturbed, scenes)
    wanted, found = weights_of(whole), weights_of(tmp_path / "cut")
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_adapters_are_for_fine_tuning(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        'config = "starter"\n[pretrain.lora]\nrank = 2\n[pretrain.optimization]\nnum_steps = 1\n'
    )
    with pytest.raises(ConfigError, match="lora is for the stage"):
        load_recipe(str(path))


def test_without_peft_the_extra_is_named(
    tmp_path: Path,
    finetune: TrainRecipe,
    undisturbed: Path,
    scenes: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependencyError, match=r"altogether-rt\[lora\]"):
        finetuned(finetune.with_finetune(lora_rank=2), tmp_path / "out", undisturbed, scenes)
    assert not (run_folder(tmp_path / "out") / "cache").exists(), "said before hours of embedding"


def test_patch_tokens_are_trained_on_and_resumed(
    tmp_path: Path, finetune: TrainRecipe, patches: Path, scenes: Path
) -> None:
    """Projector and decoder change, the tower does not, and a kill leaves the same bits."""
    whole = finetuned(finetune, tmp_path / "whole", patches, scenes)
    before, after = weights_of(patches), weights_of(whole)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "mapper.linear.weight" in changed and "decoder.layers.1.gate.weight" in changed
    assert not any(name.startswith("encoder.") for name in changed)
    begin(finetune, tmp_path / "cut", patches, scenes)
    resume(finetune, tmp_path / "cut", patches, scenes)
    found = weights_of(tmp_path / "cut")
    assert all(torch.equal(after[name], found[name]) for name in after)


def test_embeddings_beyond_the_bound_are_computed_again(
    tmp_path: Path, finetune: TrainRecipe, patches: Path, scenes: Path
) -> None:
    """Eight images of 64 × 48 float32 values; room for three of them: the weights are the same."""
    row = 64 * 48 * 4
    lines: list[str] = []
    whole = finetuned(finetune, tmp_path / "whole", patches, scenes)
    train(
        finetune,
        tmp_path / "bounded",
        init=patches,
        data=scenes,
        threads=1,
        max_embedding_bytes=3 * row + 1,
        say=lines.append,
    )
    assert any("3 are kept" in line and "8" in line for line in lines)
    (kept,) = (run_folder(tmp_path / "bounded") / "cache").glob("embeddings-*.raw")
    assert kept.stat().st_size == 3 * row
    wanted, found = weights_of(whole), weights_of(tmp_path / "bounded")
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_gradient_checkpointing_changes_no_bit(
    tmp_path: Path, finetune: TrainRecipe, undisturbed: Path, scenes: Path
) -> None:
    plain = finetuned(finetune, tmp_path / "plain", undisturbed, scenes)
    recipe = finetune.with_finetune(gradient_checkpointing=True)
    saving = finetuned(recipe, tmp_path / "saving", undisturbed, scenes)
    wanted, found = weights_of(plain), weights_of(saving)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    recipes = [
        json.loads((run_folder(out) / "run.json").read_text())["recipe"] for out in (plain, saving)
    ]
    key = "gradient_checkpointing"  # absent where it is off, as in older records
    assert [r["finetune"]["optimization"].get(key) for r in recipes] == [None, True]


def test_bf16_trains_near_float32(
    tmp_path: Path, finetune: TrainRecipe, undisturbed: Path, scenes: Path
) -> None:
    single = finetuned(finetune, tmp_path / "fp32", undisturbed, scenes)
    half = finetuned(
        finetune.with_finetune(precision="bf16"), tmp_path / "bf16", undisturbed, scenes
    )
    name = "decoder.layers.0.fc1.weight"
    wanted, found, before = (weights_of(out)[name] for out in (single, half, undisturbed))
    assert not torch.equal(wanted, found)
    assert found.dtype == torch.float32
    moved, apart = (wanted - before).norm(), (wanted - found).norm()
    assert apart < 0.5 * moved


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_one_sentence(
    tmp_path: Path, finetune: TrainRecipe, undisturbed: Path, scenes: Path
) -> None:
    with pytest.raises(AltogetherError, match="cuda"):
        finetuned(finetune, tmp_path / "out", undisturbed, scenes, device="cuda")
    with pytest.raises(AltogetherError, match="TensorRT does not train"):
        finetuned(finetune, tmp_path / "out", undisturbed, scenes, device="tensorrt")
    assert not (tmp_path / "out.training").exists()


def test_options_change_the_recipe(finetune: TrainRecipe) -> None:
    changed = finetune.with_finetune(num_steps=7, batch_size=3, lora_rank=8, alt_dropout=0.0)
    assert changed.finetune is not None and changed.lora is not None
    assert (changed.lora.rank, changed.lora.scale) == (8, 2.0)
    assert (changed.finetune.optimization.num_steps, changed.finetune.alt_dropout) == (7, 0.0)
    assert changed.with_finetune(lora_rank=0).lora is None
    assert finetune.with_finetune() is finetune
    without = replace(finetune, finetune=None)
    with pytest.raises(ConfigError, match=r"no stage \[finetune\]"):
        without.with_finetune(num_steps=1)


def test_tokenizer_of_the_start_is_kept(
    tmp_path: Path, finetune: TrainRecipe, patches: Path, scenes: Path
) -> None:
    out = finetuned(finetune, tmp_path / "out", patches, scenes)
    before, after = (Tokenizer.from_file(str(at / "tokenizer.json")) for at in (patches, out))
    assert before.to_str() == after.to_str()


def test_the_command_starts_from_a_bundle(tmp_path: Path, scenes: Path) -> None:
    """The starter ships as a bundle: its checkpoint is recovered, and trained on."""
    command = [
        *("train", "--config", "finetune", "--init", "starter", "--data", str(scenes)),
        *("--out", str(tmp_path / "out"), "--steps", "2", "--batch-size", "2", "--threads", "1"),
        *("--precision", "bf16", "--gradient-checkpointing", "--device", "cpu"),
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    about = json.loads((tmp_path / "out" / "checkpoint.json").read_text())
    optimization = about["recipe"]["finetune"]["optimization"]
    assert (optimization["num_steps"], optimization["precision"]) == (2, "bf16")
    assert optimization["gradient_checkpointing"] is True
    assert about["init"]["name"] == "starter"


def test_images_without_data_are_a_mistake(tmp_path: Path) -> None:
    options = ["--images", str(tmp_path), "--init", "starter"]
    result = CliRunner().invoke(
        app, ["train", "--config", "finetune", "--out", str(tmp_path / "out"), *options]
    )
    assert result.exit_code == 2
    assert "are for --data" in result.output
