"""`export` and `inspect` as they are typed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from altogether_rt.artifacts.checkpoint import save_checkpoint
from altogether_rt.cli.main import app
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.model.encoder import build_encoder
from tests.tiny import tiny_config, tiny_tokenizer

runner = CliRunner()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real checkpoint, its encoder a tiny ViT of open_clip."""
    folder = tmp_path_factory.mktemp("checkpoint")
    config = tiny_config()
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    model = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}
    encoder = replace(config.encoder, name="tiny-vit", model=model)
    config = replace(config, encoder=encoder)
    torch.manual_seed(0)
    state = {
        **CaptionerModel(config).state_dict(),
        **{f"encoder.{k}": v for k, v in build_encoder(encoder).visual.state_dict().items()},
    }
    tokenizer = tiny_tokenizer(folder / "tokenizer.json")
    save_checkpoint(folder / "ckpt", config, state, tokenizer, {"note": "for tests"})
    return folder / "ckpt"


def test_export_then_inspect(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, ["export", "--ckpt", str(checkpoint)])
    assert result.exit_code == 0, result.output
    assert "ckpt-cpu-int8" in result.stdout
    assert "writing the decoder" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt-cpu-int8"]

    shown = runner.invoke(app, ["inspect", "ckpt-cpu-int8"])
    assert shown.exit_code == 0
    for part in ("tiny-opt", "cpu-int8", "weights.bin", "mean cosine", "tiny-vit", "prefill"):
        assert part in shown.stdout

    told = json.loads(runner.invoke(app, ["inspect", "ckpt-cpu-int8", "--json"]).stdout)
    assert told["config"]["name"] == "tiny-opt"
    assert told["parity"]["step"]["mean_cosine"] > 0.99
    assert told["parity"]["inputs"] == "scenes"
    assert told["provenance"]["checkpoint"]["name"] == "ckpt"
    assert len(told["provenance"]["checkpoint"]["sha256"]) == 64
    assert told["bytes"] == sum(file["bytes"] for file in told["files"].values())
    assert told["bundle_id"] in result.stdout

    again = runner.invoke(app, ["export", "--ckpt", str(checkpoint)])
    assert again.exit_code == 1
    assert "exists already: choose another --out, or pass --overwrite" in again.stderr


def test_export_with_own_images_and_json(checkpoint: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for name in ("w5_w6.png", "w7.JPG", "w8.png"):
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / name)
    (images / "broken.png").write_bytes(b"no image")
    (images / "notes.txt").write_text("not an image either")
    command = ["export", "--ckpt", str(checkpoint), "--target", "cpu-fp32", "--json"]
    command += ["--out", str(tmp_path / "b"), "--calibration-images", str(images), "--quiet"]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert result.stderr == ""
    assert told["target"] == "cpu-fp32"
    assert told["parity"]["images"] == 3
    assert told["parity"]["inputs"] == "images given"
    assert told["parity"]["prompts"] == 3 + 16  # with texts such as people write


def test_export_with_own_alt_texts(checkpoint: Path, tmp_path: Path) -> None:
    """Alt-texts of images beyond those that are read serve too; images without one do not."""
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for index in range(12):
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{index:02}.png")
        if index != 3:
            rows.append({"file_name": f"{index:02}.png", "alt": f"w{index + 10} w{index + 20}"})
    (tmp_path / "alts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["export", "--ckpt", str(checkpoint), "--target", "cpu-fp32", "--json", "--quiet"]
    command += ["--out", str(tmp_path / "b"), "--calibration-images", str(images)]
    result = runner.invoke(app, [*command, "--calibration-alts", str(tmp_path / "alts.jsonl")])
    assert result.exit_code == 0, result.output
    parity = json.loads(result.stdout)["parity"]
    assert (parity["images"], parity["prompts"]) == (8, 11)
    assert parity["prefill"]["rows"] == 11 * (1 + 2)
    assert parity["prefill"]["kl"] < 1e-4
    assert parity["prefill"]["nll"] > 1


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ([], 2, "give the folder of a checkpoint"),
        (["--ckpt", "{ckpt}", "--calibration-alts", "a.jsonl"], 2, "the folder of their images"),
        (["--ckpt", "nowhere"], 1, "nowhere is not a checkpoint"),
        (["--ckpt", "{ckpt}", "--target", "abacus"], 1, "there is no target 'abacus'"),
        (["--ckpt", "{ckpt}", "--sm", "89"], 1, "the target cpu-int8 has no engines"),
        (["--ckpt", "{ckpt}", "--timing-cache", "t"], 1, "leave out --sm and --timing-cache"),
        (["--ckpt", "{ckpt}", "--target", "tensorrt-fp16", "--sm", "new"], 2, "compute"),
        (
            ["--ckpt", "{ckpt}", "--target", "tensorrt-fp8", "--sm", "80,89"],
            1,
            "fp8 needs a GPU of SM 89 or later: leave out SM 80",
        ),
        (["--ckpt", "{ckpt}", "--calibration-images", "nowhere"], 1, "there is no folder nowhere"),
        (
            ["--ckpt", "{ckpt}", "--calibration-images", "."],
            1,
            "none of the files in . is a readable image",
        ),
    ],
)
def test_what_cannot_be_exported(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, ["export", *(part.format(ckpt=checkpoint) for part in options)])
    assert result.exit_code == code
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_export_with_engines(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt (Linux on x86-64)")
    command = ["export", "--ckpt", str(checkpoint), "--target", "tensorrt-fp16", "--json"]
    refused = runner.invoke(app, [*command, "--out", str(tmp_path / "b"), "--sm", "33"])
    assert refused.exit_code == 1
    assert "not for 33" in refused.stderr
    result = runner.invoke(app, [*command, "--out", str(tmp_path / "b"), "--sm", "8.9,120"])
    assert result.exit_code == 0, result.output
    assert "compiling the decoder for SM 89, 120" in result.stderr
    told = json.loads(result.stdout)
    assert told["engines"] == [f"{name}.sm89-120.plan" for name in ("decoder", "encoder", "mapper")]
    shown = runner.invoke(app, ["inspect", str(tmp_path / "b")])
    assert "SM 89, 120, by tensorrt_rtx" in shown.stdout


def test_targets_are_listed() -> None:
    result = runner.invoke(app, ["export", "--list-targets"])
    assert result.exit_code == 0
    assert "cpu-int8" in result.stdout
    told = json.loads(runner.invoke(app, ["export", "--list-targets", "--json"]).stdout)
    assert told["targets"]["cpu-fp32"]["precision"] == "float32"


def test_a_bundle_without_the_newer_figures_is_shown(tmp_path: Path) -> None:
    """Bundles of earlier versions have neither divergences nor likelihoods; the starter is one."""
    shown = runner.invoke(app, ["inspect", "starter"])
    assert shown.exit_code == 0
    assert "prefill" in shown.stdout
    assert "worst row" in shown.stdout


def test_inspecting_what_is_no_bundle(tmp_path: Path) -> None:
    result = runner.invoke(app, ["inspect", str(tmp_path)])
    assert result.exit_code == 1
    assert "is not a bundle" in result.stderr
