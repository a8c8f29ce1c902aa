"""`altogether-rt mix`, as it is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from altogether_rt.cli.main import app

pytestmark = pytest.mark.lean


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["mix", *map(str, arguments)])


@pytest.fixture
def captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "captions.jsonl"
    rows: list[dict[str, object]] = [
        {"file_name": f"{i}.png", "alt": f"alt {i}", "caption": f"caption {i}"} for i in range(40)
    ]
    rows[7] = {"file_name": "7.png", "alt": "alt 7", "error": {"class": "c", "message": "m"}}
    rows[8] = {"file_name": "8.png", "alt": "", "caption": "caption 8"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "broken\n")
    return path


def test_result_as_json(captions: Path) -> None:
    done = run(captions, "--ratio", 0, "--epochs", 2, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "out": "mixed.jsonl",
        "format": "rows",
        "ratio": 0.0,
        "seed": 0,
        "epochs": 2,
        "samples": 40,
        "without_caption": 1,
        "errors": 1,
        "without_alt": 1,
        "repeated": 0,
        "unreadable": 1,
        "captions": 0,
        "alts": 78,
        "missing_captions": 0,
        "left_out": 2,
        "share": 0.0,
    }
    assert sorted(path.name for path in captions.parent.glob("mixed*")) == [
        "mixed-epoch0.jsonl",
        "mixed-epoch1.jsonl",
    ]


def test_result_in_words(captions: Path) -> None:
    done = run(captions, "--ratio", 1)
    assert done.stdout.splitlines() == [
        "mixed.jsonl: 40 texts, 97.50 % captions.",
        "alt-texts taken because the caption is missing: 1",
        "images that could not be captioned: 1",
    ]
    assert "records that cannot be read: line 41: not JSON" in done.stderr
    quiet = run(captions, "--ratio", 1, "--overwrite", "--quiet")
    assert (quiet.stdout, quiet.stderr) == ("", "")


def test_every_file_is_named(captions: Path) -> None:
    said = run(captions, "--epochs", 3, "--out", "m.jsonl").stdout
    assert said.startswith("m-epoch0.jsonl … m-epoch2.jsonl: ") and " texts in 3 epochs" in said


def test_images_that_a_trainer_would_not_find_are_said(captions: Path) -> None:
    """Of 40 images one is there; a trainer would stop at the first that is not."""
    photos = captions.parent / "photos"
    photos.mkdir()
    (photos / "3.png").touch()
    done = run(captions, "--format", "open-clip", "--images", "photos", "--ratio", 1)
    assert "39 of the first 40 images are not in photos: give the folder" in done.stderr
    done = run(captions, "--format", "imagefolder", "--only-captions")
    assert "40 of the first 40 images are not beside metadata.jsonl" in done.stderr
    for number in range(40):
        (photos / f"{number}.png").touch()
    done = run(captions, "--format", "open-clip", "--images", "photos", "--out", "again.tsv")
    assert "images are not" not in done.stderr
    done = run(captions, "--format", "open-clip", "--images", "s3://b/photos", "--out", "s3.tsv")
    assert done.exit_code == 0 and "images are not" not in done.stderr
    assert "images are not" not in run(captions).stderr


def test_alt_texts_of_other_images_are_refused(captions: Path) -> None:
    Path("other.csv").write_text("file_name,alt\nphotos/0.png,a boat\nphotos/0.png,a ship\n")
    done = run(captions, "--alt", "other.csv")
    assert done.exit_code == 1 and not Path("mixed.jsonl").exists()
    assert "has an alt-text in other.csv" in done.stderr and "begins with '0.png'" in done.stderr


def test_a_share_of_fifteen_in_a_hundred_unless_asked(captions: Path) -> None:
    assert json.loads(run(captions, "--json").stdout)["ratio"] == 0.15
    alone = run(captions, "--only-captions", "--format", "imagefolder", "--json")
    assert json.loads(alone.stdout)["ratio"] == 1.0
    assert len(Path("metadata.jsonl").read_text().splitlines()) == 39


@pytest.mark.parametrize(
    ("layout", "name"),
    [("open-clip", "mixed.tsv"), ("imagefolder", "metadata.jsonl"), ("metaclip", "mixed.json")],
)
def test_every_format_has_a_file_of_its_own(captions: Path, layout: str, name: str) -> None:
    assert run(captions, "--format", layout).exit_code == 0
    assert Path(name).exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--ratio", 1.5], 2, "--ratio"),
        (["--ratio", "nan"], 2, "--ratio"),
        (["--epochs", 0], 2, "epochs"),
        (["--format", "parquet"], 2, "parquet"),
        (["--images", "photos"], 1, "--images is an option of --format open-clip"),
        (["--alt", "none.jsonl"], 1, "no alt-text file"),
        (["--out", "."], 1, "exists already"),
        (["--out", ".", "--overwrite"], 1, "is a folder"),
        (["--out", "captions.jsonl/m", "--overwrite"], 1, "cannot be written"),
    ],
)
def test_mistakes_are_one_sentence(
    captions: Path, options: list[object], code: int, message: str
) -> None:
    before = sorted(captions.parent.iterdir())
    done = run(captions, *options)
    assert done.exit_code == code
    assert message in done.stderr or message in str(done.exception)
    assert sorted(captions.parent.iterdir()) == before


def test_help_has_examples() -> None:
    assert "altogether-rt mix captions.jsonl --ratio 0.15" in run("--help").stdout


def test_a_link_at_a_temporary_name_is_not_written_through(tmp_path: Path) -> None:
    """The names that temporaries of `mix` once had; a data set may bring links of any name."""
    rows = tmp_path / "captions.jsonl"
    rows.write_text('{"file_name": "a.png", "alt": "an alt", "caption": "A caption."}\n')
    mine = tmp_path / "mine"
    mine.write_text("mine")
    out = tmp_path / "mixed.jsonl"
    for name in ("mixed.jsonl.tmp", ".mixed.jsonl.tmp"):
        (tmp_path / name).symlink_to(mine)
    done = CliRunner().invoke(app, ["mix", str(rows), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_text().count("\n") == 1
    assert mine.read_text() == "mine"
