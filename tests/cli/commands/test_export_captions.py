"""`altogether-rt export-captions`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from altogether_rt.cli.main import app
from tests.publishing.examples import members_of, write_run, write_tar

pytest.importorskip("pyarrow", reason="needs the extra parquet")


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run `run` over the tar in `in`, in the working folder."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"key": "a", "alt": "x", "caption": "one"},
        {"key": "b", "alt": "", "error_class": "broken", "error": "It is broken."},
    ]
    write_run(tmp_path / "run", {"00000": rows})
    write_tar(tmp_path / "in/00000.tar", [("a.png", b"x"), ("a.txt", b"old"), ("b.png", b"y")])


def invoke(command: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["export-captions", *command.split()])
    return done.exit_code, done.output


def test_every_format() -> None:
    code, output = invoke("run tars --format webdataset --shards in --into txt --ratio 1")
    assert code == 0, output
    assert "tars: 1 captions in 1 shard.\nimages that could not be captioned: 1\n" in output
    assert "samples without any text, which training code leaves out: 1" in output
    assert members_of(Path("tars/00000.tar"))["a.txt"] == b"one"
    code, output = invoke("run json --format webdataset --shards in/ --json-key cap --json")
    assert code == 0, output
    assert json.loads(output.splitlines()[-1])["captions"] == 1
    assert members_of(Path("json/00000.tar"))["a.json"] == b'{"cap": "one"}'
    for command, file in (
        ("run mc --format metaclip --form nested", "mc/0/0.json"),
        ("run table --format parquet", "table/00000.parquet"),
        ("run images --format parquet --shards in", "images/00000.parquet"),
        ("run captions.jsonl --format jsonl", "captions.jsonl"),
        ("captions.jsonl table2 --format parquet", "table2/captions.parquet"),
    ):
        code, output = invoke(command)
        assert code == 0, output
        assert Path(file).is_file()
    assert json.loads(Path("mc/0/0.json").read_text()) == {"a": {"altogether": "one"}}
    code, output = invoke("run table --format parquet")
    assert "table: 1 captions in 1 shard, 1 of them before.\n" in output


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("run out --format webdataset", "--format webdataset needs the tars"),
        ("run out --format parquet --form nested", "--form is an option of --format metaclip"),
        ("run out --format webdataset --shards in --ratio 0.5", "--ratio is an option of --into"),
        ("run out --format webdataset --shards in --into txt --json-key k", "--into json"),
        ("run out --format metaclip --shards in", "--format webdataset or parquet"),
        ("run run/_run.jsonl --format jsonl", "exists already"),
        ("run - --format jsonl", "an export does not go to standard output: name a file."),
        ("run - --format parquet", "an export does not go to standard output: name a folder."),
        ("none out --format parquet", "there are no captions in none"),
        ("run out --format webdataset --shards nowhere", "there is no nowhere"),
        ("run out --format webdataset --shards other", "the export is incomplete: 1 shard could"),
    ],
)
def test_mistakes_are_one_sentence(command: str, message: str) -> None:
    Path("run/_run.jsonl").touch()
    write_tar(Path("other/00001.tar"), [])
    code, output = invoke(command)
    assert code == 1
    assert message in " ".join(output.split())
    assert "Traceback" not in output
    assert not Path("-").exists()
