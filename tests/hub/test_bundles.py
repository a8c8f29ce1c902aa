"""Bundles are published with a card, and used by their name where they were pulled."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from altogether_rt.artifacts.bundle import Bundle, find_bundle
from altogether_rt.cli.main import app
from altogether_rt.errors import AltogetherError
from altogether_rt.hub.card import find_licence, model_card
from tests.hub.server import COMMIT, LocalHub, Repository

NAME = "someone/starter"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments])


@pytest.fixture
def starter() -> Bundle:
    return Bundle.load("starter")


@pytest.fixture
def pushed(hub: LocalHub, starter: Bundle, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """The starter, published by the command."""
    hub.token = "secret"
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    done = run("bundle", "push", "starter", "--hub", NAME, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["revision"] == COMMIT
    return hub.repositories[NAME]


def test_what_is_pushed_is_the_bundle_and_its_card(
    pushed: Repository, hub: LocalHub, starter: Bundle
) -> None:
    learnt = starter.manifest.drafting_state
    assert learnt is not None
    parts = set(starter.manifest.files) - {learnt}
    assert set(pushed.files) == {*parts, "bundle.json", "README.md"}, "what it learnt stays at home"
    for name in parts:
        assert pushed.files[name] == (starter.path / name).read_bytes()
    assert hub.visibility == {NAME: "private"}, "for its owner alone unless asked otherwise"
    assert f"--bundle {NAME}" in pushed.files["README.md"].decode()


@pytest.mark.lean
def test_a_pushed_bundle_is_pulled_and_used_by_its_name(
    pushed: Repository, hub: LocalHub, cache: Path, photos: Path, tmp_path: Path, starter: Bundle
) -> None:
    out = tmp_path / "captions.jsonl"
    arguments = ("caption", str(photos), "--bundle", NAME, "--out", str(out))
    hub.requests.clear()
    done = run(*arguments)
    assert (done.exit_code, hub.requests) == (1, [])
    done = run(*arguments, "--download")
    assert done.exit_code == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["bundle"] for row in rows} == {starter.bundle_id}
    pulled = cache / "someone--starter" / COMMIT / "published"
    assert Bundle.load(pulled).bundle_id == starter.bundle_id
    assert not (pulled.parent / "files").exists(), "its files are kept once"
    requests = len(hub.requests)
    assert run(*arguments, "--overwrite").exit_code == 0
    done = run("bundle", "pull", NAME, "--out", str(tmp_path / "copy"))
    assert done.exit_code == 0, done.stderr
    assert Bundle.load(tmp_path / "copy").bundle_id == starter.bundle_id
    assert len(hub.requests) == requests
    assert "also on this machine" in run("models").stdout


def test_a_published_bundle_becomes_a_checkpoint(
    pushed: Repository, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as to the recovery of its weights, which has tests of its own."""
    pytest.importorskip("torch", reason="needs the extra train")
    seen = []

    def recover(source: Path, out: Path) -> None:
        seen.append(source)
        raise AltogetherError("far enough.")

    monkeypatch.setattr("altogether_rt.importing.bundle.recover_checkpoint", recover)
    done = run("import", NAME, "--download", "--out", str(tmp_path / "ckpt"))
    assert (done.exit_code, "far enough" in done.stderr) == (1, True)
    assert seen == [cache / "someone--starter" / COMMIT / "published"]
    assert (seen[0] / "bundle.json").is_file(), "what was published stays"


@pytest.mark.lean
def test_a_bundle_is_pulled_without_torch(
    pushed: Repository, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where PyTorch is not installed, too: in a process of its own."""
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'onnx', 'safetensors'):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from altogether_rt.cli.main import run\n"
        "run()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "bundle", "pull", NAME, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["target"] == "cpu-int8"


@pytest.mark.parametrize("file", ["decoder.onnx", "bundle.json", "tokenizer.json"])
def test_other_bytes_than_were_pushed_are_not_used(
    file: str, pushed: Repository, cache: Path
) -> None:
    """The hub itself says that they are right: the manifest does not."""
    data = pushed.files[file]
    pushed.files[file] = data[:-2] + b"!" + data[-1:]
    done = run("bundle", "pull", NAME)
    assert done.exit_code == 1
    assert re.search(r"is not the file that was exported|cannot be read", done.stderr)
    assert not list(cache.glob("*/*/published"))


def test_a_bundle_that_lacks_a_file(pushed: Repository, cache: Path) -> None:
    del pushed.files["decoder.onnx"]
    done = run("bundle", "pull", NAME)
    assert done.exit_code == 1
    assert f"{NAME} lacks decoder.onnx" in done.stderr
    assert not list(cache.glob("*/*/published"))


@pytest.mark.parametrize("hostile", ["../../escaped", "README.md", "bundle.json", ".hidden"])
def test_a_manifest_cannot_name_other_files(
    hostile: str, pushed: Repository, cache: Path, tmp_path: Path
) -> None:
    manifest = json.loads(pushed.files["bundle.json"])
    manifest["files"][hostile] = {"bytes": 3, "sha256": "0" * 64}
    pushed.files["bundle.json"] = json.dumps(manifest).encode()
    done = run("bundle", "pull", NAME)
    assert done.exit_code == 1, done.stdout
    assert not list(cache.glob("*/*/published"))
    assert not list(tmp_path.rglob("escaped"))


def test_without_a_token_nothing_is_published(hub: LocalHub) -> None:
    hub.token = "secret"
    done = run("bundle", "push", "starter", "--hub", NAME)
    assert done.exit_code == 1
    assert "the hub does not let you publish someone/starter: log in" in done.stderr
    assert hub.repositories == {}


def test_a_folder_is_published_and_pulled(tmp_path: Path, starter: Bundle) -> None:
    shared = tmp_path / "shared"
    done = run("bundle", "push", "starter", "--out", str(shared), "--with-learnt")
    assert done.exit_code == 0, done.stderr
    assert Bundle.load(shared).manifest == starter.manifest
    assert (shared / "README.md").read_text() == model_card(starter, "Apache-2.0", str(shared))
    done = run("bundle", "pull", str(shared), "--out", str(tmp_path / "mine"))
    assert done.exit_code == 0, done.stderr
    assert Bundle.load(tmp_path / "mine").bundle_id == starter.bundle_id
    done = run("bundle", "push", "starter", "--out", str(shared))
    assert (done.exit_code, "exists already" in done.stderr) == (1, True)
    (shared / "weights.bin").write_bytes(b"")
    done = run("bundle", "pull", str(shared), "--out", str(tmp_path / "other"))
    assert (done.exit_code, "its hash differs" in done.stderr) == (1, True)
    assert not (tmp_path / "other").exists()


def test_usage(tmp_path: Path) -> None:
    assert run("bundle", "push", "starter").exit_code == 2
    assert run("bundle", "push", "starter", "--hub", "a/b", "--out", "x").exit_code == 2
    assert run("bundle", "push", "starter", "--hub", "not an id").exit_code == 2
    assert run("bundle", "pull", str(tmp_path)).exit_code == 2


def with_origin(bundle: Bundle, **values: Any) -> Bundle:
    origin = {"id": "someone/base", "revision": COMMIT, "licence": "mit", **values}
    return with_about(bundle, {"hub": origin})


def with_about(bundle: Bundle, about: Mapping[str, Any]) -> Bundle:
    provenance = {
        **bundle.manifest.provenance,
        "checkpoint": {"name": "base", "sha256": "0" * 64, "about": about},
    }
    manifest = dataclasses.replace(bundle.manifest, provenance=provenance)
    return dataclasses.replace(bundle, manifest=manifest, path=Path("elsewhere"))


def test_the_card_tells_what_the_manifest_knows(starter: Bundle) -> None:
    card = model_card(with_origin(starter), "mit", "someone/captioner")
    head, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert head.splitlines() == [
        'license: "mit"',
        "library_name: altogether-rt",
        "pipeline_tag: image-to-text",
        "tags: [image-captioning, alt-text, altogether-rt]",
        'base_model: "someone/base"',
    ]
    assert f"someone/base at {COMMIT}" in body
    assert starter.bundle_id in body
    for stage in ("encoder", "mapper", "prefill", "step"):
        figure = starter.manifest.parity[stage]["mean_cosine"]
        assert f"| {stage} | {figure:.6f} |" in body


def test_a_card_is_no_way_into_somebody_elses_page(starter: Bundle) -> None:
    hostile = "x\n---\n<script>alert(1)</script> [a](javascript:b) | `c` \u202e"
    card = model_card(with_origin(starter, id=hostile), 'mit"\nextra: 1', "someone/captioner")
    head, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert len(head.splitlines()) == 5
    assert not re.search(r"<script|\]\(|\u202e|\n---\n", body)


def test_the_licence_is_that_of_the_origin(starter: Bundle) -> None:
    assert find_licence(starter) == "Apache-2.0"
    assert find_licence(with_origin(starter)) == "mit"
    tuned = {"init": {"name": "base", "sha256": "0" * 64, "hub": {"licence": "bsd-3-clause"}}}
    for about in (tuned, {"original_checkpoint": {"about": tuned}}):
        assert find_licence(with_about(starter, about)) == "bsd-3-clause", "trained from it"
    for unknown in ("unknown", None):
        with pytest.raises(AltogetherError, match="give it by --licence"):
            find_licence(with_origin(starter, licence=unknown))
    assert find_bundle("starter") == starter.path
