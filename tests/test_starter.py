"""The captioner that ships inside the package, as its users meet it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from altogether_rt import Captioner
from altogether_rt.artifacts.bundle import find_bundle
from altogether_rt.cli.main import app
from altogether_rt.scenes.dataset import reference_row
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.score import Scores
from altogether_rt.scenes.text import make_sample

pytestmark = pytest.mark.lean

SAMPLES = [make_sample(77, index, "test") for index in range(120)]
IMAGES = [render(sample.scene) for sample in SAMPLES]
ALTS = [list(sample.alts) for sample in SAMPLES]


def _texts(slots: int, order: list[int], **params: Any) -> dict[int, str]:
    with Captioner.load("starter", num_slots=slots) as captioner:
        captions = captioner.caption(
            [IMAGES[i] for i in order], [ALTS[i] for i in order], captioner.params(**params)
        )
    return {i: caption.text for i, caption in zip(order, captions, strict=True)}


@pytest.fixture(scope="module")
def captions() -> dict[int, str]:
    return _texts(16, list(range(len(SAMPLES))))


def test_bundle_is_small() -> None:
    files = [path for path in find_bundle("starter").iterdir() if path.suffix != ".py"]
    assert sum(path.stat().st_size for path in files) <= 10_000_000


def test_keeps_names_corrects_facts_invents_nothing(captions: dict[int, str]) -> None:
    """The published bars, with room for the chance of a small sample."""
    scores = Scores()
    for index, sample in enumerate(SAMPLES):
        scores.add(captions[index], reference_row("", sample))
    found = scores.to_dict()
    assert found["visual_facts_right"] >= 95
    assert found["names_kept"] >= 93
    assert found["wrong_corrected"] >= 88
    assert found["invented_with_empty_alt"] == 0


@pytest.mark.parametrize("slots", [1, 7, 32])
def test_caption_depends_on_its_own_row_alone(captions: dict[int, str], slots: int) -> None:
    order = list(range(len(SAMPLES)))
    random.Random(slots).shuffle(order)
    order = order[: 30 if slots == 1 else None]
    assert _texts(slots, order) == {index: captions[index] for index in order}


def test_sampled_caption_depends_on_its_own_row_and_the_seed() -> None:
    order = list(range(40))
    sampled = {"temperature": 1.0, "top_p": 0.95}
    first = _texts(8, order, **sampled, seed=1)
    assert _texts(3, order[::-1], **sampled, seed=1) == first
    assert _texts(8, order, **sampled, seed=2) != first


def test_a_folder_of_scenes_from_drawing_to_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == 0, done.output
        return done.stdout

    assert json.loads(run("scenes", "examples", "--num", "12", "--seed", "3", "--json")) == {
        "folder": "examples", "scenes": 12, "seed": 3, "split": "test",
    }  # fmt: skip
    run("caption", "examples", "--alt", "alts.jsonl", "--sheet", "sheet.html", "--quiet")
    assert len(Path("captions.jsonl").read_text().splitlines()) == 12
    assert "data:image/jpeg" in Path("sheet.html").read_text()
    files = ("captions.jsonl", "examples/references.jsonl")
    assert json.loads(run("scenes", "score", *files, "--json"))["visual_facts_right"] > 85
    assert "names of the alt-text kept" in run("scenes", "score", *files)
