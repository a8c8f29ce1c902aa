"""From a name and an empty cache to captions, and what is left for the second time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from altogether_rt import __version__
from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.cli import downloads
from altogether_rt.cli.main import app
from altogether_rt.errors import AltogetherError
from altogether_rt.hub.names import find_name
from altogether_rt.hub.obtain import Steps, obtain_checkpoint
from tests.hub.conftest import HUB_ID
from tests.hub.server import COMMIT, LocalHub, Repository

run = CliRunner().invoke

#: The command line without anything that a second run must not need.
LEAN = """
import socket, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "safetensors", "huggingface_hub"):
            raise ModuleNotFoundError(f"No module named {name!r} (refused)", name=name)

def no_socket(*args, **kwargs):
    raise AssertionError("a socket was opened")

sys.meta_path.insert(0, Refuse())
socket.socket.connect = socket.create_connection = no_socket
from altogether_rt.cli.main import run
run()
"""


def test_from_an_empty_cache_to_captions(
    smolvlm: Repository, hub: LocalHub, cache: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "captions.jsonl"
    arguments = ["caption", str(photos), "--bundle", "smolvlm-500m", "--out", str(out)]
    done = run(app, arguments)
    assert (done.exit_code, hub.requests) == (1, []), "nothing is downloaded without being asked"
    assert "smolvlm-500m is not on this machine yet (1.02 GB, Apache-2.0)" in done.stderr
    assert not cache.exists()

    done = run(app, [*arguments, "--download"])
    assert done.exit_code == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 2
    assert all(row["caption"] is not None and row.get("error") is None for row in rows)
    folder = cache / HUB_ID.replace("/", "--") / COMMIT
    asked = {path.rpartition("/")[2] for _, path in hub.requests if "/resolve/" in path}
    assert asked == set(smolvlm.files) - {"pytorch_model.bin", "README.md"}
    bundle = Bundle.load(folder / f"cpu-int8-{__version__}")
    checkpoint = bundle.manifest.provenance["checkpoint"]
    assert checkpoint["name"] == "SmolVLM-500M-Instruct"
    assert checkpoint["about"]["hub"] == {
        "id": HUB_ID,
        "revision": COMMIT,
        "licence": "apache-2.0",
    }
    left = {path.name for path in folder.iterdir()}
    assert left == {"files", "download.json", bundle.path.name}, "no temporary is left"

    requests = len(hub.requests)
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"}
    again = subprocess.run(
        [sys.executable, "-c", LEAN, *arguments, "--overwrite"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows
    assert len(hub.requests) == requests

    _other_commands(tmp_path, cache)


def _other_commands(tmp_path: Path, cache: Path) -> None:
    """What else takes the name: each without the hub."""
    from altogether_rt.artifacts.checkpoint import Checkpoint

    done = run(app, ["import", "smolvlm-500m", "--out", str(tmp_path / "ckpt"), "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["hub"]["revision"] == COMMIT
    assert Checkpoint.load(tmp_path / "ckpt").about["imported_from"] == HUB_ID
    done = run(app, ["import", f"{HUB_ID}@{COMMIT}", "--out", str(tmp_path / "same")])
    assert done.exit_code == 0, done.stderr
    _export(tmp_path)
    _in_use()
    assert not list(cache.glob("*/*/.*.tmp"))
    done = run(app, ["inspect", "smolvlm-500m", "--json"])
    assert json.loads(done.stdout)["prepared"] is not None
    done = run(app, ["models", "--json"])
    listed = {entry["name"]: entry for entry in json.loads(done.stdout)["models"]}
    (here,) = listed["smolvlm-500m"]["here"]
    assert (here["revision"], here["downloaded"]) == (COMMIT, True)
    assert here["bundles"] == [f"cpu-int8-{__version__}"]
    sizes = [path.stat().st_size for path in cache.glob("*/*/**/*") if path.is_file()]
    assert here["bytes"] == sum(sizes) - len(COMMIT + "\n"), "all but refs/main"
    assert listed["smolvlm-256m"]["here"] == []
    (cache / HUB_ID.replace("/", "--") / COMMIT / "download.json").unlink()
    done = run(app, ["import", "smolvlm-500m", "--out", str(tmp_path / "again")])
    assert (done.exit_code, "is not on this machine yet" in done.stderr) == (1, True)
    done = run(app, ["models", "--remove", "smolvlm-500m"])
    assert done.exit_code == 0
    assert not list(cache.glob("*/*/*"))
    assert not list(cache.parent.glob("prepared/*/decoder.onnx"))
    done = run(app, ["models", "--remove", "smolvlm-500m"])
    assert (done.exit_code, "nothing of smolvlm-500m" in done.stderr) == (1, True)


def _in_use() -> None:
    """What one process works with is not taken for what a killed one has left."""
    name = find_name("smolvlm-500m")
    assert name is not None
    with obtain_checkpoint(name, Steps()) as folder:
        with obtain_checkpoint(name, Steps()) as other:
            assert other != folder
        assert not other.exists()
        assert (folder / "model.safetensors").is_file()


def _export(tmp_path: Path) -> None:
    """By name, as far as to the export itself."""
    from altogether_rt.artifacts.checkpoint import Checkpoint

    seen = []

    def export(folder: Path, *_: object, **__: object) -> None:
        seen.append(Checkpoint.load(folder).about["hub"]["revision"])
        raise AltogetherError("far enough.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("altogether_rt.export.from_checkpoint.export_checkpoint", export)
        out = str(tmp_path / "exported")
        done = run(app, ["export", "--ckpt", "smolvlm-500m", "--target", "cpu-fp32", "--out", out])
    assert (done.exit_code, seen) == (1, [COMMIT]), done.output


@pytest.mark.parametrize("name", ["smolvlm-500m", "someone/captioner"])
def test_a_path_wins_over_a_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_name(name) is not None
    (tmp_path / f"{name}.training").mkdir(parents=True)
    assert find_name(name) is None, "the checkpoint of a training that goes on"
    (tmp_path / f"{name}.training").rmdir()
    assert find_name(name) is not None
    (tmp_path / name).mkdir(parents=True)
    assert find_name(name) is None
    done = run(app, ["inspect", name])
    assert (done.exit_code, "is not a bundle" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("text", "hub_id", "revision"),
    [
        ("smolvlm-2.2b", "HuggingFaceTB/SmolVLM-Instruct", None),
        ("some.one/a_model-2.0", "some.one/a_model-2.0", None),
        ("someone/model@v1.0", "someone/model", "v1.0"),
    ],
)
def test_names(text: str, hub_id: str, revision: str | None) -> None:
    name = find_name(text)
    assert name is not None
    assert (name.hub_id, name.revision) == (hub_id, revision)


@pytest.mark.parametrize(
    "text",
    [
        *("starter", "nowhere", "a/b/c", "../model", "./model", "/a/b", "a/..", "a//b", "-a/b"),
        *("a/b@../x", "a/b@", "a/b--c", "a/b\n", "~/model", "a/.hidden", "https://x/y"),
    ],
)
def test_what_is_no_name(text: str) -> None:
    assert find_name(text) is None


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_on_a_terminal_it_asks_and_takes_no_for_an_answer(
    answer: str, smolvlm: Repository, hub: LocalHub, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "_on_terminal", lambda: True)
    done = run(app, ["caption", str(photos), "--bundle", "smolvlm-500m"], input=answer)
    assert done.exit_code == 1
    assert "1.02 GB" in done.stderr
    assert f"({HUB_ID}, licence Apache-2.0)" in done.stderr
    assert "up to 2.5 GB on the disk" in done.stderr
    assert hub.requests == []


def test_on_a_terminal_yes_is_enough(
    hub: LocalHub, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the hub that says no here."""
    monkeypatch.setattr(downloads, "_on_terminal", lambda: True)
    done = run(app, ["caption", str(photos), "--bundle", "smolvlm-500m"], input="y\n")
    assert (done.exit_code, f"the hub has no {HUB_ID}" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["caption", "photos"],
        ["caption", "photos/a.tar"],
        ["bench"],
        ["export", "--target", "cpu-int8"],
        ["import", "NAME", "--out", "out"],
        ["inspect", "NAME"],
        ["prepare", "NAME"],
        ["learn", "captions.jsonl"],
        ["bundle", "push", "NAME", "--out", "out"],
    ],
    ids=lambda arguments: "-".join(arguments[:2]),
)
@pytest.mark.parametrize("name", ["smolvlm-500m", "someone/captioner"])
def test_no_command_downloads_unasked(
    name: str,
    arguments: list[str],
    hub: LocalHub,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with tarfile.open("photos/a.tar", "w") as tar:
        tar.add("photos/0.png")
    (tmp_path / "captions.jsonl").write_text("")
    option = {"export": "--ckpt"}.get(arguments[0], "--bundle")
    given = [name if argument == "NAME" else argument for argument in arguments]
    done = run(app, given if "NAME" in arguments else [*given, option, name])
    assert (done.exit_code, hub.requests) == (1, []), done.stderr
    assert f"run altogether-rt bundle pull {name}" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["smolvlm-500", "SmolVLM-500M"])
def test_nearly_a_name(photos: Path, name: str) -> None:
    done = run(app, ["caption", str(photos), "--bundle", name])
    assert (done.exit_code, "if you mean smolvlm-500m, write that" in done.stderr) == (1, True)


def test_interrupted_downloads_are_kept_and_said_to_be(
    smolvlm: Repository, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("altogether_rt.hub.download._download", interrupted)
    done = run(app, ["caption", str(photos), "--bundle", "smolvlm-500m", "--download"])
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1] == (
        "altogether-rt: Interrupted: what was downloaded is kept; give the same command to go on."
    )
    assert "unfinished" in run(app, ["models"]).stdout


def test_a_mistyped_path_is_not_sent_to_the_hub(
    hub: LocalHub, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "_on_terminal", lambda: True)
    done = run(app, ["caption", str(photos), "--bundle", "exports/photos"], input="y\n")
    assert (done.exit_code, hub.requests) == (1, [])
    assert "there is no bundle at exports/photos" in done.stderr


def test_without_torch_the_sentence_names_the_extra(
    smolvlm: Repository, hub: LocalHub, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("altogether_rt.hub.obtain.has_module", lambda name: name != "torch")
    done = run(app, ["caption", str(photos), "--bundle", "smolvlm-500m", "--download"])
    assert (done.exit_code, hub.requests) == (1, [])
    assert "needs torch, which is not installed: run pip install 'altogether-rt[export]'" in (
        done.stderr.replace("\n", " ")
    )


def test_sockets_would_be_noticed() -> None:
    """The guard of the second run works."""
    code = LEAN.replace("from altogether_rt.cli.main import run\nrun()", "") + (
        "socket.create_connection(('127.0.0.1', 9))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "a socket was opened" in done.stderr
    assert socket.create_connection is not None


def test_training_that_cannot_begin_downloads_nothing(
    smolvlm: Repository, hub: LocalHub, tmp_path: Path
) -> None:
    data, out = tmp_path / "train.jsonl", tmp_path / "tuned"
    train = ["train", "--recipe", "finetune", "--init", "smolvlm-500m", "--download"]
    train += ["--data", str(data), "--out", str(out)]
    assert "there is no training file" in run(app, train).stderr
    data.write_text('{"file_name": "a.jpg", "caption": "A boat."}\n')
    out.mkdir()
    assert "already exists" in run(app, train).stderr
    assert hub.requests == []
