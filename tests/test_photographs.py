"""The whole path learns from real photographs: train, export, caption, score."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from altogether_rt.cli.main import app
from altogether_rt.metrics import DocumentFrequencies, cider_d

CONFIG = """
[encoder]
name = "tiny-ViT"
embed_dim = 64
image_size = 64
[encoder.model]
embed_dim = 64
vision_cfg = { image_size = 64, layers = 2, width = 64, patch_size = 16, head_width = 32 }
text_cfg = { context_length = 8, vocab_size = 8, width = 32, heads = 1, layers = 1 }
[mapper]
prefix_length = 4
clip_length = 4
layers = 1
heads = 4
[decoder]
vocab_size = 800
layers = 2
width = 128
heads = 4
ffn_width = 256
max_positions = 128
position_offset = 2
eos_id = 2
pad_id = 1
[prompt]
max_alt_tokens = 48
[generation]
max_new_tokens = 48
temperature = 0.0
"""
RECIPE = """
config = "{config}"
vocab_size = 800
log_every_steps = 50
sample_every_steps = 200
[finetune]
alt_dropout = 0.0
[finetune.optimization]
num_steps = 250
batch_size = 30
peak_lr = 3e-3
lr_floor = 0.05
warmup_steps = 20
weight_decay = 0.0
"""


def _run(*arguments: object) -> None:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def captions_by_image(shared_data: Path) -> dict[str, list[str]]:
    """The human captions of the photographs, by file name."""
    coco = json.loads((shared_data / "captions" / "captions.json").read_text())
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    captions: dict[str, list[str]] = defaultdict(list)
    for annotation in coco["annotations"]:
        captions[names[annotation["image_id"]]].append(annotation["caption"].strip())
    return dict(captions)


def test_photographs_are_learnt_by_heart(
    captions_by_image: dict[str, list[str]], shared_data: Path, tmp_path: Path
) -> None:
    """One human caption is the alt-text, another the caption to learn."""
    images = shared_data / "captions" / "images"
    rows = [
        {"file_name": str(images / name), "alt": captions[1], "caption": captions[0]}
        for name, captions in captions_by_image.items()
    ]
    assert len(rows) == 30
    data, alts = tmp_path / "train.jsonl", tmp_path / "alts.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    alts.write_text(
        "".join(
            json.dumps({"file_name": name, "alt": captions[1]}) + "\n"
            for name, captions in captions_by_image.items()
        )
    )
    (tmp_path / "tiny.toml").write_text(CONFIG)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(config=tmp_path / "tiny.toml"))

    checkpoint, bundle, out = tmp_path / "ckpt", tmp_path / "bundle", tmp_path / "captions.jsonl"
    _run("train", "--config", recipe, "--data", data, "--out", checkpoint, "--quiet")
    _run("export", "--ckpt", checkpoint, "--out", bundle, "--calibration-images", images, "--quiet")
    _run("caption", images, "--alt", alts, "--bundle", bundle, "--out", out, "--quiet")

    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(written) == 30
    references = [[captions_by_image[row["file_name"]][0]] for row in written]
    everything = json.loads(
        (shared_data / "captions" / "captions_val2017_textonly.json").read_text()
    )
    by_image: dict[int, list[str]] = defaultdict(list)
    for annotation in everything["annotations"]:
        by_image[annotation["image_id"]].append(annotation["caption"])
    frequencies = DocumentFrequencies.from_references(by_image.values())
    scores = cider_d([row["caption"] for row in written], references, frequencies)
    assert scores.mean >= 5, "captions learnt by heart must come back"
