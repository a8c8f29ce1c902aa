"""Rows from saved embeddings are the rows from the images, to the byte."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.cli.main import app
from altogether_rt.data.embeddings import EncoderStamp, SavedEmbeddings
from altogether_rt.jobs.executor import LocalExecutor
from altogether_rt.jobs.folder import (
    CaptionJob,
    CaptionSummary,
    EmbeddingFiles,
    caption_folder,
    open_folder,
)
from altogether_rt.scenes.dataset import write_scenes
from tests.fake_captioner import FakeCaptioner

pytestmark = pytest.mark.lean

STAMP = EncoderStamp("fake", 16)
NUM_SCENES = 30


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work") / "scenes"
    for _ in write_scenes(folder, NUM_SCENES, 5, "test"):
        pass
    (folder / "0003.png").write_text("404")
    return folder


def caption(scenes: Path, out: Path, *options: Any) -> Result:
    arguments = ["caption", scenes, "--alt", "alts.jsonl", "--out", out, "--json", *options]
    return CliRunner().invoke(app, [str(part) for part in arguments])


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_with_the_starter(scenes: Path, tmp_path: Path, temperature: float) -> None:
    pytest.importorskip("onnxruntime")
    saved = tmp_path / "e.npy"
    options = ["--temperature", temperature, "--threads", 1]
    images, embeddings = tmp_path / "i.jsonl", tmp_path / "e.jsonl"
    plain = tmp_path / "p.jsonl"
    assert caption(scenes, plain, *options).exit_code == 0
    assert caption(scenes, images, *options, "--save-embeddings", saved).exit_code == 0
    assert images.read_bytes() == plain.read_bytes()
    assert np.load(saved).shape == (NUM_SCENES - 1, 256)
    done = caption(scenes, embeddings, *options, "--embeddings", saved, "--batch-size", 5)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["encode_s"] == 0
    assert json.loads(done.stdout)["failed"] == {"no_embedding": 1}
    rows = [rows_of(path) for path in (images, embeddings)]
    assert rows[0][:3] + rows[0][4:] == rows[1][:3] + rows[1][4:]
    workers = tmp_path / "w.jsonl"
    assert caption(scenes, workers, *options, "--workers", 2, "--embeddings", saved).exit_code == 0
    assert workers.read_bytes() == embeddings.read_bytes()


def test_the_same_embeddings_whoever_saves_them(scenes: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    one, two = tmp_path / "one.npy", tmp_path / "two.npy"
    assert caption(scenes, tmp_path / "1", "--save-embeddings", one).exit_code == 0
    options = ["--workers", 2, "--batch-size", 3, "--save-embeddings", two]
    assert caption(scenes, tmp_path / "2", *options).exit_code == 0
    assert one.read_bytes() == two.read_bytes()
    assert (tmp_path / "one.names.jsonl").read_bytes() == (
        tmp_path / "two.names.jsonl"
    ).read_bytes()


def test_user_errors(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    done = caption(scenes, out, "--embeddings", "a.npy", "--save-embeddings", "b.npy")
    assert done.exit_code == 2
    for option in ("--embeddings", "--save-embeddings"):
        done = caption(scenes, out, option, tmp_path / "e.pkl")
        assert done.exit_code == 1
        assert "e.pkl is neither a .npy nor a .parquet file" in done.stderr
    done = caption(scenes, out, "--embeddings", tmp_path / "absent.npy", "--workers", 2)
    assert done.exit_code == 1
    assert "absent.names.jsonl: No such file" in done.stderr
    assert "Traceback" not in done.stderr


def run(scenes: Path, out: Path, fake: FakeCaptioner, **options: Any) -> CaptionSummary:
    read, save = options.pop("embeddings", None), options.pop("save_embeddings", None)
    files = EmbeddingFiles(STAMP, read=read, save=save)
    job = CaptionJob(folder=scenes, out=out, embeddings=files, **options)
    return caption_folder(job, open_folder(job), LocalExecutor(fake), fake.params())


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows without the hash of the image's file, which embeddings do not have."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "image_hash"} for row in rows]


def test_saving_survives_interruption(scenes: Path, tmp_path: Path) -> None:
    out, saved = tmp_path / "c.jsonl", tmp_path / "e.npy"
    fake = FakeCaptioner()
    fake.interrupt_after = 7
    with pytest.raises(KeyboardInterrupt):
        run(scenes, out, fake, save_embeddings=saved)
    assert not saved.exists()
    fake.interrupt_after = None
    assert run(scenes, out, fake, save_embeddings=saved).embeddings_missing == 0
    assert len(fake.requests) == NUM_SCENES - 1  # none of them twice
    names = [f"{i:04}.png" for i in range(NUM_SCENES) if i != 3]
    assert list(SavedEmbeddings(saved, STAMP).names()) == names
    other = FakeCaptioner()
    assert run(scenes, tmp_path / "d.jsonl", other, embeddings=saved).captioned == len(names)
    assert other.num_encoded == 0


def test_rows_of_a_run_that_saved_nothing_are_counted(scenes: Path, tmp_path: Path) -> None:
    out, saved = tmp_path / "c.jsonl", tmp_path / "e.npy"
    run(scenes, out, FakeCaptioner(), limit=10)
    summary = run(scenes, out, FakeCaptioner(), save_embeddings=saved)
    assert (summary.skipped, summary.embeddings_missing) == (10, 9)
    assert np.load(saved).shape == (NUM_SCENES - 10, 16)


def test_an_image_that_changed_has_the_embedding_that_was_saved(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), "navy").save(tmp_path / "a.png")
    saved = tmp_path / "e.npy"
    run(tmp_path, tmp_path / "1.jsonl", FakeCaptioner(), save_embeddings=saved)
    (tmp_path / "a.png").write_bytes(b"gone")
    run(tmp_path, tmp_path / "2.jsonl", FakeCaptioner(), embeddings=saved)
    assert rows_of(tmp_path / "1.jsonl") == rows_of(tmp_path / "2.jsonl")


def test_encoder_id_is_of_the_encoder_alone() -> None:
    manifest = Bundle.load("starter", verify_hashes=False).manifest
    files = dict(manifest.files)
    files["decoder.onnx"] = files["encoder.onnx"]
    graphs = dict(manifest.graphs)
    change = dataclasses.replace
    graphs["decoder"] = change(graphs["decoder"], sha256=files["encoder.onnx"].sha256)
    other = change(manifest, graphs=graphs, files=files)
    assert other.bundle_id != manifest.bundle_id
    assert other.encoder_id == manifest.encoder_id
    encoder = change(manifest.config.encoder, interpolation="bilinear")
    squashed = change(manifest, config=change(manifest.config, encoder=encoder))
    assert squashed.encoder_id != manifest.encoder_id
