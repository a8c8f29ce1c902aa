"""What is said of a captioner that does not suit what it is given, and where."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from altogether_rt.artifacts.origin import trained_on
from altogether_rt.cli.main import app
from altogether_rt.data.images import load_image
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
