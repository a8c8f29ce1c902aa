"""Graphs that this machine has never run are run in another process first, once."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import altogether_rt.runtime.cpu.trial as trial_module
from altogether_rt import Captioner
from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.errors import AltogetherError, BundleError
from altogether_rt.runtime.cpu.trial import ensure_tried

pytestmark = pytest.mark.lean


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "altogether-rt" / "tried"


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    shutil.copytree(Bundle.load("starter").path, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The processes that are started."""
    started: list[str] = []
    run = subprocess.run

    def spy(command: list[str], **options: Any) -> Any:
        started.append(command[-1])
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", spy)
    return started


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads((folder / "bundle.json").read_text())
    change(data)
    (folder / "bundle.json").write_text(json.dumps(data))


def test_a_bundle_is_tried_once(starter: Path, runs: list[str], cache: Path) -> None:
    for _ in range(2):
        Captioner.load(starter, num_slots=1).close()
    assert runs == [str(starter)]
    (record,) = cache.iterdir()
    record.chmod(0o666)  # anybody could have made it
    ensure_tried(Bundle.load(starter))
    assert len(runs) == 2


def test_the_starter_is_not(runs: list[str], cache: Path) -> None:
    Captioner.load("starter", num_slots=1).close()
    assert runs == []
    assert not cache.exists()


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import os; os.kill(os.getpid(), 11)", r"end the process that runs them \(SIGSEGV\)"),
        ("import sys; sys.exit(3)", r"cannot be run \(exit code 3\)"),
    ],
)
def test_graphs_that_end_the_process_are_refused(
    program: str, says: str, starter: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(trial_module, "_PROGRAM", program)
    with pytest.raises(BundleError, match=says):
        Captioner.load(starter)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["config"]["encoder"].update(image_size=65), "the encoder of .* has pixels"),
        (lambda d: d["config"]["encoder"].update(embed_dim=255), "the encoder of .* has embedd"),
        (lambda d: d["config"]["mapper"].update(prefix_length=9), "the mapper of .* has visual"),
        (lambda d: d["config"]["decoder"].update(vocab_size=1500), "the decoder of .* has logits"),
        (lambda d: d["config"]["decoder"].update(max_positions=4000), "onnxruntime failed"),
        (lambda d: d["config"]["decoder"].update(max_positions=2_000_000), "the most is 1048576"),
        (lambda d: d["cache"].update(layers=3), "cache has the sizes"),
        (lambda d: d["cache"].update(dtype="object"), "cache.dtype must be one of"),
    ],
)
def test_a_manifest_that_is_not_of_its_graphs_is_refused(
    change: Callable[[dict[str, Any]], None], says: str, starter: Path
) -> None:
    def both(data: dict[str, Any]) -> None:
        change(data)
        if data["config"]["decoder"]["max_positions"] == 4000:
            data["config"]["prompt"]["max_alt_tokens"] = 3000

    edit(starter, both)
    with pytest.raises(AltogetherError, match=says) as caught:
        Captioner.load(starter, num_slots=1)
    assert "\n" not in str(caught.value)


def test_a_bundle_changed_after_it_was_checked_is_not_used(starter: Path) -> None:
    from altogether_rt.opening import resolve_captioner

    resolved = resolve_captioner(starter)
    (starter / "weights.bin").touch()
    with pytest.raises(AltogetherError, match="was changed while it was being opened"):
        resolved.open()
