"""What is said of a captioner that does not suit what it is given, and where."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from altogether_rt.artifacts.origin import trained_on
from altogether_rt.cli.caption_notes import captioner_notes, shard_notes
from altogether_rt.cli.main import app
from altogether_rt.data.images import load_image
from altogether_rt.data.shards.base import Shard
from altogether_rt.jobs.folder import CaptionJob, open_folder
from altogether_rt.opening import resolve_captioner
from altogether_rt.scenes.dataset import write_scenes
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.recognise import background_share, is_scene
from altogether_rt.scenes.text import make_scene

SAYS = "starter knows drawn scenes alone"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    list(write_scenes(tmp_path / "scenes", 5, seed=3, split="test"))
    return tmp_path / "scenes"


def noise(path: Path) -> None:
    """Something that is no scene, of a scene's size."""
    pixels = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.mark.lean
@pytest.mark.parametrize("split", ["train", "test"])
def test_scenes_are_recognised(split: str) -> None:
    assert all(is_scene(render(make_scene(30, i, split))) for i in range(60))  # type: ignore[arg-type]


@pytest.mark.lean
def test_plain_pages_and_other_sizes_are_no_scenes() -> None:
    for colour in ("white", "black", "red", "#f0f0f0"):
        assert not is_scene(Image.new("RGB", (256, 256), colour))
    assert not is_scene(render(make_scene(30, 1)).resize((255, 256)))


def test_photographs_are_not_taken_for_scenes(shared_data: Path) -> None:
    paths = sorted((shared_data / "alts" / "images").iterdir())[:40]
    for path in paths:
        image = load_image(path)
        side = min(image.size)
        reduced = image.crop((0, 0, side, side)).resize((256, 256))
        assert background_share(reduced) < 0.05, path.name


@pytest.mark.lean
def test_nothing_is_said_of_scenes(scenes: Path, tmp_path: Path) -> None:
    out, sheet = tmp_path / "c.jsonl", tmp_path / "c.html"
    done = run("caption", scenes, "--alt", "alts.jsonl", "--out", out, "--sheet", sheet, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["captioner_notes"] == []
    assert json.loads(done.stdout)["captioner"] == {"name": "starter", "target": "cpu-int8"}
    assert SAYS not in done.stderr + sheet.read_text()
    alone = tmp_path / "alone"
    alone.mkdir()
    (scenes / "0002.png").rename(alone / "renamed.png")
    assert SAYS not in run("caption", alone, "--out", tmp_path / "d.jsonl").stderr


@pytest.mark.lean
def test_anything_else_is_said_in_run_sheet_and_json(scenes: Path, tmp_path: Path) -> None:
    noise(scenes / "0001.png")  # among scenes
    (scenes / "0003.png").write_text("404")  # gets its row, and is no reason
    out, sheet = tmp_path / "c.jsonl", tmp_path / "c.html"
    done = run("caption", scenes, "--out", out, "--sheet", sheet, "--json")
    (note,) = json.loads(done.stdout)["captioner_notes"]
    assert SAYS in note and "0001.png" in note
    assert done.stderr.count(SAYS) == 1
    head = sheet.read_text().partition("</header>")[0]
    assert head.count(SAYS) == 1
    assert SAYS not in run("caption", scenes, "--out", out, "-q", "--overwrite").stderr


@pytest.mark.lean
def test_one_stranger_among_many_scenes_is_found(tmp_path: Path) -> None:
    list(write_scenes(tmp_path / "many", 60, seed=3, split="test"))
    noise(tmp_path / "many" / "0047.png")
    captioner = resolve_captioner("starter")
    job = CaptionJob(folder=tmp_path / "many", out=tmp_path / "c.jsonl")
    (note,) = captioner_notes(captioner, open_folder(job))
    assert SAYS in note and "0047.png is none" in note


@pytest.mark.lean
def test_it_is_said_of_shards(scenes: Path, tmp_path: Path) -> None:
    """What is in the first shard counts; nothing is fetched to be looked at."""
    pytest.importorskip("pyarrow")
    shards = tmp_path / "shards"
    shards.mkdir()

    def pack(name: str) -> None:
        with tarfile.open(shards / name, "w") as tar:
            for path in sorted(scenes.glob("*.png")):
                tar.add(path, f"{path.stem}.png")

    pack("0.tar")
    done = run("caption", shards / "0.tar", "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["captioner_notes"] == []
    noise(scenes / "0001.png")
    pack("1.tar")
    done = run("caption", shards / "1.tar", "--out", tmp_path / "other", "--json")
    (note,) = json.loads(done.stdout)["captioner_notes"]
    assert SAYS in note and "0001 in 1 is none" in note
    assert done.stderr.count(SAYS) == 1
    again = run("caption", shards / "1.tar", "--out", tmp_path / "other", "--json")
    assert json.loads(again.stdout)["captioner_notes"] == []  # nothing is captioned

    def unopened(shard: Shard) -> NoReturn:
        raise AssertionError(shard)

    captioner = resolve_captioner("starter")
    far = Shard("2", "s3://bucket/2.tar")
    (note,) = shard_notes(captioner, [far], unopened)
    assert note.startswith(f"{SAYS} (altogether-rt scenes): captions of other images")


@pytest.mark.lean
def test_inspect_says_what_the_starter_knows() -> None:
    assert "drawn scenes alone" in run("inspect", "starter").stdout
    assert json.loads(run("inspect", "starter", "--json").stdout)["trained_on"] == "scenes"


@pytest.mark.lean
def test_the_last_training_counts() -> None:
    scenes = {"about": {"data": {"source": "scenes"}}}
    recovered = {"about": {"recovered_from_bundle": "x", "original_checkpoint": scenes}}
    tuned = {"about": {"data": {"source": "folder"}, "original_checkpoint": scenes}}
    assert [trained_on(c) for c in (scenes, recovered, tuned)] == ["scenes", "scenes", "folder"]
    endless: dict[str, object] = {}
    endless["about"] = {"original_checkpoint": endless}
    strange: list[object] = [None, [], {}, {"about": 3}, {"about": {"data": []}}, endless]
    assert [trained_on(value) for value in strange] == [None] * 6


@pytest.mark.lean
def test_a_captioner_that_never_reads_alts_says_so(scenes: Path, tmp_path: Path) -> None:
    """A copy of the starter whose prompt has no alt-text, as an import of ClipCap has."""
    import shutil

    from altogether_rt.artifacts.bundle import find_bundle

    bundle = tmp_path / "bundle"
    shutil.copytree(find_bundle("starter"), bundle)
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["config"]["prompt"]["use_alt"] = False
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    options = ["--bundle", bundle, "--out", tmp_path / "c.jsonl", "--json"]
    done = run("caption", scenes, "--alt", "alts.jsonl", *options)
    (note,) = json.loads(done.stdout)["captioner_notes"]
    assert "never reads alt-texts" in note and note in done.stderr
    done = run("caption", scenes, *options, "--overwrite")
    assert json.loads(done.stdout)["captioner_notes"] == []
    assert "never read" in run("inspect", bundle).stdout


@pytest.mark.lean
def test_the_alt_file_that_was_taken_is_named(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    options = ["--alt", "alts.jsonl", "--json", "--overwrite"]
    done = run("caption", scenes, *options)
    assert f"Alt-texts are from {scenes / 'alts.jsonl'}: there is no such file here" in done.stderr
    assert json.loads(done.stdout)["alt_file"] == str(scenes / "alts.jsonl")
    (here / "alts.jsonl").write_text('{"file_name": "0000.png", "alt": "here"}\n')
    done = run("caption", scenes, *options)
    assert f"from alts.jsonl, not from {scenes / 'alts.jsonl'}, which is there too" in done.stderr
    assert json.loads(done.stdout)["alt_file"] == "alts.jsonl"
    done = run("caption", scenes, "--alt", scenes / "alts.jsonl", "--json", "--overwrite")
    assert "Alt-texts are from" not in done.stderr
