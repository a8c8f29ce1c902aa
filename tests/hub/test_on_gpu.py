"""A name on a GPU that PyTorch can use: its checkpoint is kept, and opened like any other.

The CPU stands in for the GPU. What decides is in test_target.py.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import threading
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from altogether_rt import Captioner, __version__
from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.checkpoint import Checkpoint
from altogether_rt.cli import downloads
from altogether_rt.cli.main import app
from altogether_rt.errors import AltogetherError, BundleError
from altogether_rt.hub import obtain
from altogether_rt.hub.cache import find_cached
from altogether_rt.hub.obtain import Steps, obtain_captioner
from altogether_rt.hub.target import CHECKPOINT
from altogether_rt.machine import device as device_module
from altogether_rt.machine import report as report_module
from altogether_rt.machine import torch_gpu
from altogether_rt.opening import resolve_captioner
from tests.hub.conftest import HUB_ID
from tests.hub.fetching import WEIGHTS, complaint, fetch, name_of
from tests.hub.server import COMMIT, LocalHub, Repository
from tests.machine.fake_driver import pretend_gpus

torch = pytest.importorskip("torch", reason="needs the extra train")

KEPT = f"{CHECKPOINT}-{__version__}"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments])


@pytest.fixture(autouse=True)
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that PyTorch and Triton can use; nothing is exported for it."""
    from altogether_rt.runtime.torch import open as torch_open
    from altogether_rt.runtime.torch.device.api import HostDevice

    pretend_gpus(monkeypatch, 90)
    real = device_module.installed_version
    for module in (torch_gpu, report_module):
        monkeypatch.setattr(
            module, "installed_version", lambda name: "2.13.0" if name == "torch" else real(name)
        )
    monkeypatch.setattr(torch_gpu, "has_module", lambda name: True)
    monkeypatch.setenv("CC", "gcc")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch_open, "_cuda_device", lambda name: HostDevice())
    monkeypatch.setattr(torch_open, "kernel_failure", lambda *_: None)
    monkeypatch.setattr(
        "altogether_rt.export.from_checkpoint.export_checkpoint",
        lambda *_, **__: pytest.fail("it is exported"),
    )


@pytest.fixture
def folder(cache: Path) -> Path:
    """Where a commit of the captioner is kept."""
    return cache / HUB_ID.replace("/", "--") / COMMIT


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_from_an_empty_cache_to_captions(
    device: str,
    smolvlm: Repository,
    hub: LocalHub,
    folder: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from altogether_rt.runtime.torch.device.runtime import DeviceTorchRuntime

    opened: list[object] = []
    real = DeviceTorchRuntime.__init__

    def record(self: DeviceTorchRuntime, *given: Any, **options: Any) -> None:
        opened.append(options["dtype"])
        real(self, *given, **options)

    monkeypatch.setattr(DeviceTorchRuntime, "__init__", record)
    out = tmp_path / "captions.jsonl"
    arguments = ["caption", str(photos), "--bundle", "smolvlm-500m", "--out", str(out)]
    arguments += ["--device", device]
    done = run(*arguments)
    assert (done.exit_code, hub.requests) == (1, []), "nothing is downloaded without being asked"
    on = "" if device == "auto" else " --device cuda"
    assert f"run altogether-rt bundle pull smolvlm-500m{on}, or pass --download" in done.stderr
    done = run(*arguments, "--download")
    assert done.exit_code == 0, done.stderr
    rows = rows_of(out)
    assert len(rows) == 2 and all(row["caption"] is not None for row in rows)
    assert opened == [torch.float16]
    left = {path.name for path in folder.iterdir()}
    assert left == {"files", "download.json", KEPT}, "no temporary is left, and no bundle"
    about = Checkpoint.load(folder / KEPT).about
    assert about["hub"] == {"id": HUB_ID, "revision": COMMIT, "licence": "apache-2.0"}

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    requests = len(hub.requests)
    assert run(*arguments, "--overwrite").exit_code == 0
    assert (rows_of(out), len(hub.requests)) == (rows, requests)
    done = run(*arguments, "--overwrite", "--dtype", "float32")
    assert done.exit_code == 0, done.stderr
    assert opened == [torch.float16, torch.float16, torch.float32]
    assert {row["bundle"] for row in rows_of(out)}.isdisjoint(row["bundle"] for row in rows)


def test_types_go_with_a_name(smolvlm: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    from altogether_rt.export import open_compared as open_module
    from altogether_rt.export.float8 import observed
    from altogether_rt.runtime.torch.device.runtime import DeviceTorchRuntime

    monkeypatch.setattr(open_module, "observed", lambda model, samples, _: observed(model, samples))
    monkeypatch.setattr(open_module, "_check", lambda *_: None)
    obtain_captioner(name_of(), CHECKPOINT, Steps())
    resolved = resolve_captioner("smolvlm-500m", dtype="float16", kv_cache="int8")
    assert (resolved.name, resolved.target, resolved.cache) == ("smolvlm-500m", "torch", "int8")
    again = resolved.resolve_again()
    assert (again.bundle_id, again.cache) == (resolved.bundle_id, "int8"), "as on another machine"
    runtime: Any = resolved.open(num_slots=2).runtime
    assert isinstance(runtime, DeviceTorchRuntime)
    assert runtime._cache.stored.dtype == torch.int8
    runtime.close()
    with pytest.raises(AltogetherError, match="is a bundle here: its target fixes the type of its"):
        resolve_captioner("starter", dtype="float16")


def test_the_python_interface_takes_the_name(smolvlm: Repository, photos: Path) -> None:
    with pytest.raises(BundleError, match=r"run altogether-rt bundle pull smolvlm-500m\.$"):
        Captioner.load("smolvlm-500m")
    with pytest.raises(BundleError, match=r"bundle pull smolvlm-500m --device cuda\.$"):
        Captioner.load("smolvlm-500m", device="cuda")
    obtain_captioner(name_of(), CHECKPOINT, Steps())
    with pytest.raises(BundleError, match=r"bundle pull smolvlm-500m --device cpu\.$"):
        Captioner.load("smolvlm-500m", device="cpu")
    with Captioner.load("smolvlm-500m", num_slots=2) as captioner:
        (caption,) = captioner.caption(photos / "0.png", None, captioner.params(max_new_tokens=3))
    assert caption.tokens == 3


def test_a_gpu_that_fails_is_not_replaced_by_the_cpu(
    smolvlm: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is here for the GPU: on the CPU it is slower than the bundle for that."""
    obtain_captioner(name_of(), CHECKPOINT, Steps())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(AltogetherError, match=r"here cannot use CUDA: .* or use --device cpu\.$"):
        resolve_captioner("smolvlm-500m")


def test_other_commands(smolvlm: Repository, hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    done = run("bundle", "pull", "smolvlm-500m", "--json")
    assert done.exit_code == 0, done.stderr
    size = sum(path.stat().st_size for path in (folder / KEPT).iterdir())
    assert json.loads(done.stdout) == {
        "checkpoint": str(folder / KEPT),
        "target": "torch",
        "bytes": size,
    }
    requests = len(hub.requests)
    copy = tmp_path / "copy"
    done = run("bundle", "pull", "smolvlm-500m", "--out", str(copy))
    assert (done.exit_code, str(copy) in done.stdout) == (0, True), done.stderr
    assert Checkpoint.load(copy).sha256() == Checkpoint.load(folder / KEPT).sha256()
    done = run("bundle", "pull", "smolvlm-500m", "--out", str(copy))
    assert (done.exit_code, "exists already" in done.stderr) == (1, True)
    done = run("import", "smolvlm-500m", "--out", str(tmp_path / "imported"))
    assert done.exit_code == 0, done.stderr
    assert len(hub.requests) == requests
    for command in (["inspect"], ["bundle", "push", "--out", str(tmp_path / "pushed")]):
        assert complaint(*command, "smolvlm-500m") == (
            "smolvlm-500m is on this machine as a checkpoint, and this takes a bundle: run "
            "altogether-rt bundle pull smolvlm-500m --device cpu."
        )
    assert "bundle pull smolvlm-500m --device cpu" in complaint("prepare", "smolvlm-500m")
    (bundle := folder / f"cpu-int8-{__version__}").mkdir()
    for path in Bundle.load("starter").path.iterdir():
        shutil.copy(path, bundle)
    assert json.loads(run("inspect", "smolvlm-500m", "--json").stdout)["path"] == str(bundle)
    listed = {each["name"]: each for each in json.loads(run("models", "--json").stdout)["models"]}
    (here,) = listed["smolvlm-500m"]["here"]
    assert (here["bundles"], here["checkpoints"]) == ([bundle.name], [KEPT])
    assert KEPT in " ".join(run("models").stdout.split())
    assert run("models", "--remove", "smolvlm-500m").exit_code == 0
    assert not list(folder.parent.glob("*/*"))


def test_a_published_bundle_is_what_it_is(hub: LocalHub, photos: Path, tmp_path: Path) -> None:
    starter = Bundle.load("starter")
    hub.repositories["someone/starter"] = Repository.of(starter.path)
    out = tmp_path / "captions.jsonl"
    arguments = ["caption", str(photos), "--bundle", "someone/starter", "--out", str(out)]
    done = run(*arguments, "--download")
    assert done.exit_code == 0, done.stderr
    assert {row["bundle"] for row in rows_of(out)} == {starter.bundle_id}
    assert "was exported for cpu, not for cuda" in complaint(*arguments, "--device", "cuda")


def test_an_interrupted_import_leaves_nothing(
    smolvlm: Repository, hub: LocalHub, folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("altogether_rt.artifacts.checkpoint.write_tensors", interrupted)
        done = run("caption", str(photos), "--bundle", "smolvlm-500m", "--download")
    assert done.exit_code == 130
    assert "what was downloaded is kept; give the same command to go on" in done.stderr
    assert {path.name for path in folder.iterdir()} == {"files", "download.json"}
    killed = folder / f".{KEPT}.0123456789abcdef.tmp"
    killed.mkdir()
    (killed / "config.json").write_text("{}")
    requests = len(hub.requests)
    done = run("bundle", "pull", "smolvlm-500m")
    assert (done.exit_code, len(hub.requests)) == (0, requests), done.stderr
    assert {path.name for path in folder.iterdir()} == {"files", "download.json", KEPT}


def test_what_others_may_write_to_is_made_again(smolvlm: Repository, folder: Path) -> None:
    umask = os.umask(0o002)
    try:
        kept = obtain_captioner(name_of(), CHECKPOINT, Steps())
    finally:
        os.umask(umask)
    assert kept == folder / KEPT
    modes = {stat.S_IMODE(path.stat().st_mode) for path in kept.iterdir()}
    assert (modes, stat.S_IMODE(kept.stat().st_mode)) == ({0o644}, 0o755)
    (kept / "config.json").write_text("somebody else's")
    kept.chmod(0o775)
    obtain_captioner(name_of(), CHECKPOINT, Steps())
    assert Checkpoint.load(kept).config.name == "SmolVLM-500M-Instruct"
    (folder / "torch-0.0.1").mkdir()
    kept.chmod(0o775)
    obtain_captioner(name_of(), CHECKPOINT, Steps())
    assert not (folder / "torch-0.0.1").exists(), "of another version"


def test_two_at_once_import_once(smolvlm: Repository, hub: LocalHub) -> None:
    told: list[str] = []
    found: list[Path] = []

    def work() -> None:
        found.append(obtain_captioner(name_of(), CHECKPOINT, Steps(told.append)))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 3
    assert hub.downloads(WEIGHTS) == 1
    assert sum(line.startswith("importing") for line in told) == 1


def test_too_little_room(smolvlm: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10_000))
    assert "importing smolvlm-500m takes" in complaint()
    monkeypatch.undo()


def test_an_import_needs_no_exporter(
    smolvlm: Repository, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obtain, "has_module", lambda name: "onnx" not in name)
    assert run("bundle", "pull", "smolvlm-500m").exit_code == 0
    requests = len(hub.requests)
    assert "making a bundle of smolvlm-500m needs onnx, which is not installed" in (
        complaint("bundle", "pull", "smolvlm-500m", "--device", "cpu")
    )
    assert len(hub.requests) == requests


def test_a_gpu_that_nothing_can_use_costs_no_download(
    smolvlm: Repository, hub: LocalHub, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (torch_gpu, report_module):
        monkeypatch.setattr(module, "installed_version", lambda name: None)
    arguments = ["caption", str(photos), "--bundle", "smolvlm-500m", "--device", "cuda"]
    sentence = complaint(*arguments, "--download")
    assert sentence.startswith("smolvlm-500m cannot be run on cuda here: ")
    assert "torch is not installed" in sentence
    assert (hub.requests, find_cached(name_of())) == ([], None)


def test_the_question_names_what_is_made(
    smolvlm: Repository, hub: LocalHub, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "_on_terminal", lambda: True)
    arguments = ["caption", str(photos), "--bundle", "smolvlm-500m"]
    done = CliRunner().invoke(app, arguments, input="n\n")
    assert "make a checkpoint of it? All of it takes up to 3.1 GB on the disk" in done.stderr
    assert (done.exit_code, hub.requests) == (1, [])


def test_the_starter_on_a_gpu_says_what_to_do(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that works."""
    monkeypatch.chdir(tmp_path)
    arguments = ["caption", str(photos), "--out", "captions.jsonl", "--device", "cuda"]
    sentence = complaint(*arguments)
    assert sentence.endswith(
        "was exported for cpu, not for cuda: run altogether-rt import starter --out "
        "starter-checkpoint, then give --bundle starter-checkpoint, which PyTorch runs on GPUs."
    )
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)  # its comparison traces graphs
        done = run("import", "starter", "--out", "starter-checkpoint")
    assert done.exit_code == 0, done.output
    done = run(*arguments, "--bundle", "starter-checkpoint")
    assert done.exit_code == 0, done.stderr
    assert len(rows_of(tmp_path / "captions.jsonl")) == 2
