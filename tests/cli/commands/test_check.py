"""`check` says of a file what `caption --checks` says of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from altogether_rt.cli.main import app
from altogether_rt.scenes.dataset import write_scenes

pytestmark = pytest.mark.lean


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_checks_are_those_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    list(write_scenes(tmp_path / "scenes", 5, seed=3, split="test"))
    (tmp_path / "scenes" / "0003.png").write_text("404")
    usual = ("caption", "scenes", "--alt", "alts.jsonl", "--json")
    with_checks = json.loads(run(*usual, "--checks", "--out", "with.jsonl").stdout)
    run(*usual, "--out", "without.jsonl")
    done = run("check", "without.jsonl", "--out", "checked.jsonl", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found.pop("failed"), found.pop("out")) == (1, "checked.jsonl")
    assert found == with_checks["checks"]
    assert Path("checked.jsonl").read_bytes() == Path("with.jsonl").read_bytes()
    done = run("check", "with.jsonl")
    assert "4 checked: " in done.stdout
    done = run("check", "with.jsonl", "--out", "checked.jsonl")
    assert done.exit_code == 1
    assert "checked.jsonl is there already" in done.stderr


def test_rows_are_read_as_they_are(tmp_path: Path) -> None:
    """What the captioner read counts, and the prompt of a row; a strange row harms nothing."""
    rows = [
        {"file_name": "a", "alt": "IMG_1.jpg", "alt_used": ["our boat"], "caption": "A boat."},
        {"file_name": "b", "alt": ["x", 3], "params": {"prompt": "In Rome?"}, "caption": "In Rome"},
        {
            "file_name": "c",
            "alt": None,
            "params": 3,
            "finish_reason": [],
            "caption": "A bay in Rome",
        },
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("check", path, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["alt_words"] == [1, 2]  # boat; not x
    assert found["flags"]["new_names"] == {"count": 1, "examples": ["c"]}
    path.write_text("no row\n")
    done = run("check", path)
    assert done.exit_code == 1
    assert "has a line that is not a row, at byte 0" in done.stderr
    path.write_text("")
    assert "there are no captions in" in run("check", path).stderr
    assert "there is no file of captions" in run("check", tmp_path / "gone").stderr
