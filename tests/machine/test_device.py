"""`--device`: every sentence that says why a device cannot be used, and that nothing is read first.

Machines and installations are pretended; the commands are the real ones.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import altogether_rt.artifacts.bundle as bundle_module
from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.captioner import Captioner
from altogether_rt.cli.main import app
from altogether_rt.errors import AltogetherError, MissingDependencyError
from altogether_rt.machine import device as device_module
from altogether_rt.machine.device import Device, parse_device
from altogether_rt.runtime.select import check_device, load_bundle
from tests.machine.fake_driver import pretend_gpus

pytestmark = pytest.mark.lean

DRIVER_SENTENCE = r"there is no NVIDIA driver \(libcuda.so.1 cannot be loaded\): install it"


def pretend_packages(
    monkeypatch: pytest.MonkeyPatch,
    versions: dict[str, str],
    modules: tuple[str, ...] = (),
    providers: tuple[str, ...] = ("cpu",),
) -> None:
    monkeypatch.setattr(device_module, "installed_version", versions.get)
    monkeypatch.setattr(device_module, "has_module", lambda name: name in modules)
    monkeypatch.setattr(device_module, "onnxruntime_providers", lambda: providers)


@pytest.fixture
def unhashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a weight file is a failure."""

    def hash_file(path: Path) -> str:
        raise AssertionError(f"{path} was hashed")

    monkeypatch.setattr(bundle_module, "hash_file", hash_file)


def bundle_for(runtime: str, device: str) -> Bundle:
    """The starter, as if it had been exported for another target."""
    bundle = Bundle.load("starter", verify_hashes=False)
    target = replace(bundle.manifest.target, runtime=runtime, device=device)
    return Bundle(bundle.path, replace(bundle.manifest, target=target))


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("auto", Device("auto")),
        ("cpu", Device("cpu")),
        ("cuda", Device("cuda")),
        ("cuda:0", Device("cuda", 0)),
        ("cuda:12", Device("cuda", 12)),
        ("tensorrt", Device("tensorrt")),
    ],
)
def test_devices_are_read_and_written_alike(text: str, device: Device) -> None:
    assert parse_device(text) == device
    assert str(device) == text


@pytest.mark.parametrize("text", ["gpu", "", "cuda:", "cuda:-1", "cpu:0", "CUDA", "cuda:1234"])
def test_other_names_are_no_devices(text: str) -> None:
    with pytest.raises(AltogetherError, match="choose auto, cpu, cuda, cuda:N or tensorrt"):
        parse_device(text)


@pytest.mark.parametrize("command", ["caption", "bench"])
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "tensorrt"])
@pytest.mark.usefixtures("unhashed")
def test_commands_say_that_there_is_no_driver(
    command: str, device: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend_gpus(monkeypatch)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    folder = [str(tmp_path)] if command == "caption" else []
    done = CliRunner().invoke(app, [command, *folder, "--device", device])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert re.search(
        f"{device} cannot be used: {DRIVER_SENTENCE}.*or use --device cpu.", done.stderr
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("command", ["caption", "bench"])
def test_a_device_that_is_none_is_a_usage_error(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--device", "gpu"])
    assert done.exit_code == 2


@pytest.mark.usefixtures("unhashed")
def test_auto_looks_for_what_the_bundle_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch)
    manifest = bundle_for("onnxruntime", "cuda").manifest
    monkeypatch.setattr(bundle_module, "read_manifest", lambda path: manifest)
    for load in (load_bundle, Captioner.load):
        sentence = f"cuda cannot be used: {DRIVER_SENTENCE}.*or give a bundle .* exported for cpu"
        with pytest.raises(AltogetherError, match=sentence):
            load("starter")


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundle_for("onnxruntime", "cuda")
    pretend_gpus(monkeypatch, 89)
    with pytest.raises(AltogetherError, match=r"there is no cuda:1: this machine has cuda:0 only"):
        check_device(bundle, "cuda:1")
    pretend_gpus(monkeypatch, 89, 89, 90)
    with pytest.raises(AltogetherError, match=r"no cuda:3: .* has cuda:0 to cuda:2\."):
        check_device(bundle, "cuda:3")


@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
def test_a_driver_that_is_too_old(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, 89, cuda_version=12040)
    with pytest.raises(AltogetherError, match=r"CUDA up to 12\.4, but CUDA 13 is needed: update"):
        check_device(bundle_for(runtime, "cuda"))


@pytest.mark.parametrize(
    ("versions", "modules", "sentence"),
    [
        ({}, (), r"needs onnxruntime-gpu, .* run pip install 'altogether-rt\[gpu\]'\."),
        (
            {"onnxruntime": "1.32.0"},
            ("onnxruntime",),
            r"the installed onnxruntime 1.32.0 has no CUDAExecutionProvider: "
            r"run pip uninstall -y onnxruntime, "
            r"then pip install 'altogether-rt\[gpu\]'\.",
        ),
        (
            {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"},
            ("onnxruntime",),
            r"are both installed and overwrite each other: run pip uninstall",
        ),
    ],
)
def test_onnxruntime_without_cuda(
    versions: dict[str, str],
    modules: tuple[str, ...],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend_gpus(monkeypatch, 89)
    pretend_packages(monkeypatch, versions, modules)
    with pytest.raises(AltogetherError, match=sentence):
        check_device(bundle_for("onnxruntime", "cuda"))


@pytest.mark.parametrize(
    "versions",
    [
        {"onnxruntime-gpu": "1.31.1"},
        {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.32.0"},  # as long as its kernels are there
        {},  # a build of one's own
    ],
)
def test_the_kernels_decide_not_the_name_of_the_distribution(
    versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpus(monkeypatch, 89)
    kernels = ("cpu", "cuda", "tensorrt")
    pretend_packages(monkeypatch, versions, ("onnxruntime",), kernels)
    with pytest.raises(MissingDependencyError, match=r"needs cuda-python, .*altogether-rt\[gpu\]"):
        check_device(bundle_for("onnxruntime", "cuda"))
    pretend_packages(monkeypatch, versions, ("onnxruntime", "cuda.bindings"), kernels)
    assert check_device(bundle_for("onnxruntime", "cuda")) == Device("cuda")
    assert check_device(bundle_for("onnxruntime", "cuda"), "cuda:0") == Device("cuda", 0)


def test_providers_are_found_by_their_libraries(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    capi = tmp_path / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    (tmp_path / "onnxruntime" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(
        sys.modules, "onnxruntime", raising=False
    )  # what is imported is found first
    assert device_module.onnxruntime_providers() == ("cpu",)
    for part in ("shared", "tensorrt", "cuda"):
        (capi / f"libonnxruntime_providers_{part}.so").touch()
    assert device_module.onnxruntime_providers() == ("cpu", "cuda", "tensorrt")


def test_what_onnxruntime_reports_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    device_module.check_providers(
        ["CUDAExecutionProvider", "CPUExecutionProvider"], "CUDAExecutionProvider"
    )
    pretend_packages(monkeypatch, {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"})
    with pytest.raises(AltogetherError, match="both installed and overwrite each other"):
        device_module.check_providers(["CPUExecutionProvider"], "CUDAExecutionProvider")


@pytest.mark.parametrize(
    ("modules", "missing"),
    [((), "tensorrt_rtx"), (("tensorrt_rtx",), "cuda-python"), (("tensorrt",), "cuda-python")],
)
def test_tensorrt_that_is_not_installed(
    modules: tuple[str, ...], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpus(monkeypatch, 89)
    pretend_packages(monkeypatch, {}, modules)
    sentence = rf"needs {missing}, .* run pip install 'altogether-rt\[tensorrt\]'\."
    with pytest.raises(MissingDependencyError, match=sentence):
        check_device(bundle_for("tensorrt", "cuda"))
    pretend_packages(monkeypatch, {}, (*modules, missing, "tensorrt", "cuda.bindings"))
    assert check_device(bundle_for("tensorrt", "cuda")) == Device("tensorrt")


def test_a_bundle_for_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, 89)
    pretend_packages(monkeypatch, {"onnxruntime-gpu": "1.31.1"}, ("cuda.bindings",))
    with pytest.raises(
        AltogetherError, match=r"exported for cpu, not for cuda:0: run .* on GPUs\."
    ):
        check_device(bundle_for("onnxruntime", "cpu"), "cuda:0")
    with pytest.raises(AltogetherError, match="exported for cuda, not for cpu"):
        check_device(bundle_for("onnxruntime", "cuda"), "cpu")
    with pytest.raises(AltogetherError, match="needs the runtime abacus on cpu"):
        check_device(bundle_for("abacus", "cpu"))


def test_modules_are_found_without_importing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_module.has_module("altogether_rt.cli")
    assert not device_module.has_module("altogether_rt.no_such_module")
    assert not device_module.has_module("no_such_package.inner")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert not device_module.has_module("onnxruntime")
    assert device_module.installed_version("no-such-package") is None
