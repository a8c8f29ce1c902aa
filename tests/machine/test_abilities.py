"""Whether what `doctor` says of each ability is so, and whether its command helps."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from altogether_rt import opening
from altogether_rt.errors import MissingDependencyError
from altogether_rt.machine import report as machine_module
from altogether_rt.machine import torch_gpu
from tests.machine.pretended import ALL, abilities, doctor, pretend

pytestmark = pytest.mark.lean

WITH_CHECKPOINTS = {
    "caption on the processor with PyTorch",
    "caption on a GPU with PyTorch",
    "train, import weights, init",
}


@pytest.mark.parametrize(
    ("package", "missing"),
    [
        ("tensorboard", {"log training for TensorBoard"}),
        ("transformers", set()),
        ("onnx", {"export, import bundles"}),
        *(
            (package, {*WITH_CHECKPOINTS, "export, import bundles"})
            for package in ("torch", "safetensors", "open-clip-torch")
        ),
    ],
)
def test_an_ability_needs_its_own_packages_only(
    monkeypatch: pytest.MonkeyPatch, package: str, missing: set[str]
) -> None:
    without = {**ALL, "torch": "2.13.0"}
    del without[package]
    pretend(monkeypatch, without, 90)
    found = abilities(doctor("--json"))
    other = {"caption on a GPU with ONNX Runtime"}  # this onnxruntime is a build for processors
    assert {name for name, (ready, _, _) in found.items() if not ready} == missing | other
    for name in missing:
        extra = "export" if name == "export, import bundles" else "train"
        assert found[name][1:] == (
            f"{package} is not installed",
            f"pip install 'altogether-rt[{extra}]'",
        )


@pytest.mark.parametrize("module", ["torch", "safetensors", "open_clip"])
def test_a_checkpoint_is_opened_with_the_packages_that_doctor_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str
) -> None:
    (tmp_path / "checkpoint.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(opening, "has_module", lambda name: name != module)
    with pytest.raises(MissingDependencyError, match=f"needs {module}, .*altogether-rt.train"):
        opening.resolve_captioner(tmp_path)
    distribution = {"open_clip": "open-clip-torch"}.get(module, module)
    assert distribution in machine_module.CHECKPOINT_PACKAGES
    assert len(machine_module.CHECKPOINT_PACKAGES) == 3


def test_an_old_driver_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Bundles are refused there (`check_driver`), and PyTorch by the CUDA that it is built for."""
    without = {name: version for name, version in ALL.items() if name != "onnxruntime"}
    installed = {**without, "onnxruntime-gpu": "1.31.1", "torch": "2.13.0"}
    pretend(monkeypatch, installed, 90, cuda_version=12080)
    old = "the NVIDIA driver supports CUDA up to 12.8, but CUDA 13 is needed: update the driver"
    found = abilities(doctor("--json"))
    assert found["caption on a GPU with ONNX Runtime"] == (False, old, "")
    assert found["caption on a GPU with TensorRT"] == (False, old, "")
    assert found["caption on a GPU with PyTorch"] == (True, "", "")
    place = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    for cuda, ready in (("12.8", True), ("13.0", False)):
        (tmp_path / "version.py").write_text(f"hip = None\ncuda: Optional[str] = '{cuda}'\n")
        monkeypatch.setattr(torch_gpu, "has_module", lambda name: name == "torch")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: place)
        found = abilities(doctor("--json"))
        assert found["caption on a GPU with PyTorch"][0] == ready
    assert (
        f"PyTorch 2.13.0 is built for CUDA 13: {old}" in found["caption on a GPU with PyTorch"][1]
    )


def test_no_command_puts_one_onnxruntime_over_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    without = {n: v for n, v in ALL.items() if n not in ("onnxruntime", "onnx")}
    pretend(monkeypatch, {**without, "onnxruntime-gpu": "1.31.1"}, 90)
    found = abilities(doctor("--json"))
    assert found["export, import bundles"] == (
        False,
        "onnx is not installed",
        "pip install 'onnx>=1.20'",
    )
    pretend(monkeypatch, {**ALL, "onnxruntime-gpu": "1.31.1"}, 90)
    said = abilities(doctor("--json"))["caption on the processor with ONNX Runtime"]
    assert "are both installed and overwrite each other: run pip uninstall" in said[1]
    assert said[2] == ""


def test_a_build_of_onnxruntime_of_ones_own_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {n: v for n, v in ALL.items() if n != "onnxruntime"}, driver=False)
    monkeypatch.setattr(machine_module, "has_module", lambda name: name == "onnxruntime")
    found = abilities(doctor("--json"))
    assert found["caption on the processor with ONNX Runtime"][0]
    assert found["export, import bundles"][0]


def test_an_empty_extra_is_not_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT for RTX has no wheels for ARM, so that the extra is empty there."""
    pretend(monkeypatch, {}, 121)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    said = abilities(doctor("--json"))["caption on a GPU with TensorRT"]
    assert "the extra tensorrt is for Linux on x86-64 only: install NVIDIA's own" in said[1]
    assert said[2] == ""


def test_a_processor_that_is_not_known_is_not_called_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = machine_module.Processor("arm64", 8, ())
    monkeypatch.setattr(machine_module, "read_processor", lambda cores: unknown)
    rows = dict(re.findall(r"│ (\w[\w ]*?) +│ +(.*?) +│", doctor().stdout))
    assert rows["features"] == "unknown"
