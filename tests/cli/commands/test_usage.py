"""What commands refuse before they begin: empty values, a second input file, a bad output."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from altogether_rt.cli.main import app

pytestmark = pytest.mark.lean


def run(*given: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(given), env={"COLUMNS": "200"})
    return done.exit_code, " ".join(done.output.replace("│", " ").split())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (32, 32), "red").save(folder / "a.png")
    return folder


@pytest.mark.parametrize("option", ["--alt", "--out", "--sheet", "--bundle", "--save-embeddings"])
def test_an_empty_value_is_refused(photos: Path, option: str) -> None:
    code, said = run("caption", str(photos), option, "")
    assert code == 2
    assert f"'{option}': it is empty: give a value, or leave the option out." in said


def test_an_empty_argument_is_refused() -> None:
    code, said = run("inspect", "")
    assert code == 2
    assert "it is empty: give a value." in said


@pytest.mark.parametrize("option", ["--alt", "--embeddings", "--join"])
def test_two_input_files_where_one_is_read_are_refused(photos: Path, option: str) -> None:
    code, said = run("caption", str(photos), option, "a.npy", option, "b.npy")
    assert code == 2
    assert f"'{option}': it takes one file and is given more than once" in said


def test_of_other_options_the_last_value_counts(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "last.jsonl"
    given = ("--bundle", "no/such/folder", "--bundle", "starter", "--out", "first", "--out")
    assert run("caption", str(photos), *given, str(out), "--max-new-tokens", "2")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.jsonl", "photos"]


def test_help_and_repeated_flags_are_not(photos: Path) -> None:
    assert run("caption", "--alt", "", "--help")[0] == 0
    code, said = run("caption", str(photos), "-q", "-q", "--dry-run")
    assert (code, said) == (0, "")


def test_an_unwritable_output_is_refused_before_the_captioner_is_looked_for(photos: Path) -> None:
    file = photos / "a.png"
    for out in (file / "c.jsonl", file / "deeper" / "c.jsonl"):
        code, said = run("caption", str(photos), "--out", str(out), "--bundle", "no/such/folder")
        assert code == 1
        assert f"{out} cannot be written (" in said and "choose another --out." in said
    code, said = run("caption", str(photos), "--out", str(photos), "--bundle", "no/such/folder")
    assert (code, said) == (1, f"altogether-rt: {photos} is a folder: --out must name a file.")


def test_the_check_of_the_output_keeps_an_unfinished_run(photos: Path, tmp_path: Path) -> None:
    out, part = tmp_path / "c.jsonl", tmp_path / "c.jsonl.part"
    part.write_bytes(b'{"file_name": "a.png"}\n')
    assert run("caption", str(photos), "--out", str(out), "--bundle", "no/such/folder")[0] == 1
    assert part.read_bytes() == b'{"file_name": "a.png"}\n'
    part.unlink()
    assert run("caption", str(photos), "--out", str(out), "--bundle", "no/such/folder")[0] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_a_file_in_another_encoding_is_told_to_be_saved_as_utf_8(photos: Path) -> None:
    alts = photos.parent / "alts.csv"
    alts.write_bytes("file_name,alt\na.png,東京の桜、上野公園\n".encode("shift_jis"))
    code, said = run("caption", str(photos), "--alt", str(alts), "--dry-run")
    assert code == 1
    assert "(line 2: not UTF-8): it is in another encoding, so save it as UTF-8." in said
