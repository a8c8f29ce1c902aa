"""`altogether-rt learn`: captions teach a copy of the starter."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from altogether_rt import Captioner
from altogether_rt.artifacts.bundle import Bundle, find_bundle
from altogether_rt.cli.main import app
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.text import make_sample
from altogether_rt.speculation.step_cost import StepCost

pytestmark = pytest.mark.lean


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The starter with nothing learnt."""
    folder = tmp_path / "bundle"
    shutil.copytree(find_bundle("starter"), folder)
    data = json.loads((folder / "bundle.json").read_text())
    learnt = data.pop("guesses")
    del data["files"][learnt]
    (folder / learnt).unlink()
    (folder / "bundle.json").write_text(json.dumps(data))
    return folder


@pytest.fixture
def captions(tmp_path: Path, bundle: Path) -> Path:
    """Captions of forty scenes, an image that has none, and the embeddings of all."""
    scenes, out = tmp_path / "scenes", tmp_path / "captions.jsonl"
    assert run("scenes", scenes, "--num", 40, "--seed", 5).exit_code == 0
    (scenes / "zz.png").write_text("404")
    options = ["--alt", "alts.jsonl", "--bundle", bundle, "--out", out]
    embeddings = ["--save-embeddings", tmp_path / "e.npy"]
    assert run("caption", scenes, *options, *embeddings).exit_code == 0
    return out


def num_steps(bundle: Path) -> tuple[list[str], int]:
    """The captions of other scenes, and how many decoder steps they took."""
    samples = [make_sample(6, index, "test") for index in range(12)]
    with Captioner.load(bundle, num_slots=1, speculation="on") as captioner:
        found = captioner.caption([render(s.scene) for s in samples], [s.alts for s in samples])
        return [caption.text for caption in found], captioner.stats.num_steps


def test_a_bundle_that_has_learnt_writes_the_same_in_fewer_steps(
    tmp_path: Path, bundle: Path, captions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Draft lengths follow measured times; with the default costs they follow the drafts alone.
    monkeypatch.setattr(StepCost, "record", lambda self, rows, tokens, seconds: None)
    before = Bundle.load(bundle)
    texts, steps = num_steps(bundle)
    done = run("learn", captions, "--bundle", bundle, "--embeddings", tmp_path / "e.npy", "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["captions"] == summary["pictures"] == 40
    after = Bundle.load(bundle)
    assert after.bundle_id == before.bundle_id
    assert after.drafting_state_path is not None
    assert after.drafting_state_path.stat().st_size == summary["bytes"]
    with np.load(after.drafting_state_path, allow_pickle=False) as file:
        assert file["pictures.num"] == 40
    texts_after, steps_after = num_steps(bundle)
    assert texts_after == texts
    assert steps_after < 0.95 * steps
    fast = ["--save-embeddings", tmp_path / "fast.npy", "--fast-jpeg"]
    scenes, out = tmp_path / "scenes", tmp_path / "fast.jsonl"
    assert run("caption", scenes, "--bundle", bundle, "--out", out, *fast).exit_code == 0
    done = run("learn", captions, "--bundle", bundle, "--embeddings", tmp_path / "fast.npy")
    assert "from 40 captions, 40 with embeddings" in done.stdout
    # Learning anew replaces what was learnt; without embeddings only words teach.
    done = run("learn", captions, "--bundle", bundle, "--limit", 10)
    assert "has learnt from 10 captions, 0 with embeddings" in done.stdout
    with captions.open("a") as file:  # no more is read than is wanted
        file.write("not a row\n")
    assert run("learn", captions, "--bundle", bundle, "--limit", 40).exit_code == 0
    assert num_steps(bundle)[0] == texts


def test_what_is_wrong_is_said_and_the_bundle_left_alone(
    tmp_path: Path, bundle: Path, captions: Path
) -> None:
    before = Bundle.load(bundle)
    broken = tmp_path / "broken.jsonl"
    broken.write_text(captions.read_text() + "not a row\n")
    numbers = tmp_path / "numbers.jsonl"
    numbers.write_text('{"file_name": "a.png", "alt": 7, "caption": "A boat."}\n')
    errors_only = tmp_path / "errors.jsonl"
    errors_only.write_text(captions.read_text().splitlines()[-1] + "\n")
    for arguments, says in (
        ([broken], "line 42 of"),
        ([numbers], "line 1 of"),
        ([errors_only], "there are no captions in"),
        ([tmp_path / "absent.jsonl"], "cannot be read"),
        ([captions, "--embeddings", tmp_path / "absent.npy"], "No such file"),
    ):
        done = run("learn", *arguments, "--bundle", bundle)
        assert done.exit_code == 1
        assert says in done.stderr
        assert done.stderr.count("\n") <= 4
    assert run("learn", captions, "--bundle", tmp_path).exit_code == 1
    assert run("learn", captions).exit_code == 2
    assert Bundle.load(bundle) == before


def test_the_starter_in_the_package_is_left_alone(
    captions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name. In a clone, where the package's own is made, its folder is given."""
    monkeypatch.setattr(Bundle, "with_drafting_state", None)  # it would be called to replace one
    former = Bundle.load("starter").drafting_state_path
    for arguments in ([captions], ["--restore", former]):
        done = run("learn", *arguments, "--bundle", "starter")
        assert done.exit_code == 1
        assert re.search(
            r"stays as it was installed: copy \S+starter, and give the copy", done.stderr
        )


def test_a_bundle_of_an_older_version_learns(tmp_path: Path, captions: Path) -> None:
    """Its file has another name, and is gone back to by it."""
    folder = tmp_path / "older"
    shutil.copytree(find_bundle("starter"), folder)
    before = Bundle.load(folder)
    former = before.drafting_state_path
    assert former is not None and former.name.startswith("guesses.")
    assert run("learn", captions, "--bundle", folder).exit_code == 0
    learnt = Bundle.load(folder)
    assert learnt.drafting_state_path is not None
    assert learnt.drafting_state_path.name.startswith("drafting.")
    assert run("learn", "--restore", former, "--bundle", folder).exit_code == 0
    restored = Bundle.load(folder)
    assert restored.drafting_state_path is not None
    assert restored.drafting_state_path.read_bytes() == former.read_bytes()
    assert before.bundle_id == learnt.bundle_id == restored.bundle_id


def test_what_was_learnt_before_is_kept_and_can_be_taken_back(
    tmp_path: Path, bundle: Path, captions: Path
) -> None:
    first = json.loads(run("learn", captions, "--bundle", bundle, "--json").stdout)
    assert first["former"] is None
    before = Bundle.load(bundle)
    assert before.drafting_state_path is not None
    done = run("learn", captions, "--bundle", bundle, "--limit", 5)
    former = before.drafting_state_path
    assert f"--restore {former} goes back to it" in done.stdout
    assert former.is_file()
    assert Bundle.load(bundle).drafting_state_path != former
    restored = run("learn", "--restore", former, "--bundle", bundle)
    assert restored.exit_code == 0, restored.output
    assert Bundle.load(bundle) == before
    broken = tmp_path / "broken.npz"
    broken.write_text("404")
    assert (
        "is not valid drafting state"
        in run("learn", "--restore", broken, "--bundle", bundle).stderr
    )
    assert run("learn", captions, "--restore", former, "--bundle", bundle).exit_code == 2
    assert Bundle.load(bundle) == before
