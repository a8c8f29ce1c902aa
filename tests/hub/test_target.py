"""What a name is made into for a device: decided by what this machine could load."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from pathlib import Path

import pytest
from typer.testing import CliRunner

from altogether_rt.cli.main import app
from altogether_rt.hub.target import CHECKPOINT, TARGETS, choose_target
from altogether_rt.machine import device as device_module
from altogether_rt.machine import gpu, torch_gpu
from altogether_rt.machine import report as report_module
from tests.machine.fake_driver import pretend_gpus

pytestmark = pytest.mark.lean

#: All that a checkpoint needs on a GPU, and all that a bundle for cuda does.
TORCH = ("torch", "safetensors", "open-clip-torch", "triton", "gcc")
ONNX = ("onnxruntime", "cuda-provider", "cuda-python")


def pretend(
    monkeypatch: pytest.MonkeyPatch,
    installed: Collection[str],
    *sms: int,
    torch: str = "2.13.0",
    driver: int = 13010,
) -> None:
    """A machine with GPUs, whose installed packages and programs are these."""
    pretend_gpus(monkeypatch, *sms, cuda_version=driver)
    versions = {name: "99" for name in installed if name not in ("cuda-provider", "gcc")}
    if "torch" in versions:
        versions["torch"] = torch
    for module in (torch_gpu, device_module, report_module):
        monkeypatch.setattr(module, "installed_version", versions.get)
        monkeypatch.setattr(module, "has_module", lambda name: name in versions)
    providers = ("cpu", "cuda") if "cuda-provider" in installed else ("cpu",)
    monkeypatch.setattr(device_module, "onnxruntime_providers", lambda: providers)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: name if name in installed else None)


def without(*names: str) -> tuple[str, ...]:
    return tuple(name for name in (*TORCH, *ONNX) if name not in names)


@pytest.mark.parametrize(
    ("installed", "sm", "target", "why"),
    [
        ((*TORCH, *ONNX), 90, CHECKPOINT, "the fastest here, with kernels in Triton"),
        (TORCH, 90, CHECKPOINT, "the fastest here, with kernels in Triton"),
        (TORCH, 80, CHECKPOINT, "the fastest here"),
        (without("triton"), 90, "cuda-fp16", "would be faster: Triton is not installed"),
        (without("gcc"), 90, "cuda-fp16", "would be faster: Triton needs a C compiler"),
        ((*TORCH, *ONNX), 75, "cuda-fp16", "compute capability 8.0, and this GPU has 7.5"),
        (without("torch"), 90, "cuda-fp16", "would be faster: torch is not installed"),
        (without("open-clip-torch"), 90, "cuda-fp16", "open-clip-torch is not installed"),
        (without("triton", "cuda-python"), 90, CHECKPOINT, "slower: Triton is not installed"),
        (without("triton", "cuda-provider"), 90, CHECKPOINT, "slower: Triton is not installed"),
    ],
)
def test_what_a_gpu_is_used_with(
    installed: tuple[str, ...], sm: int, target: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, installed, sm)
    for device in ("auto", "cuda", "cuda:0"):
        found = choose_target(device)
        assert (found.name, found.problem) == (target, None)
        assert why in found.why
    assert [choose_target(kind).name for kind in ("cpu", "tensorrt")] == [
        TARGETS["cpu"],
        TARGETS["tensorrt"],
    ]


@pytest.mark.parametrize("installed", [(), without("torch", "cuda-provider"), ("torch",)])
def test_a_gpu_that_nothing_can_use(
    installed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, installed, 90)
    assert choose_target("auto").name == "cpu-int8"
    assert "is not installed" in choose_target("auto").why
    asked = choose_target("cuda")
    assert asked.name == "cuda-fp16"
    assert asked.problem is not None
    assert "is not installed: run pip install 'altogether-rt[train]', or see" in asked.problem


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle for one can be made all the same, to be used elsewhere."""
    pretend(monkeypatch, (*TORCH, *ONNX))
    assert choose_target("auto").name == "cpu-int8"
    assert choose_target("auto").problem is None
    assert choose_target("auto").why == "no NVIDIA GPU can be used here"
    asked = choose_target("cuda")
    assert asked.name == "cuda-fp16"
    assert asked.problem is not None and "there is no NVIDIA driver" in asked.problem


def test_each_gpu_decides_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, (*TORCH, *ONNX), 90, 75)
    names = [choose_target(device).name for device in ("auto", "cuda", "cuda:0", "cuda:1")]
    assert names == [CHECKPOINT, CHECKPOINT, CHECKPOINT, "cuda-fp16"]
    assert choose_target("cuda:7").name == "cuda-fp16", "which is told later not to be there"


@pytest.mark.parametrize(
    ("version", "cuda", "driver", "problem"),
    [
        ("2.13.0+cpu", "None", 13010, "PyTorch 2.13.0+cpu is a build for processors"),
        (
            "2.13.0",
            "'13.0'",
            12080,
            "is built for CUDA 13: the NVIDIA driver supports CUDA up to 12.8",
        ),
        ("2.13.0", "'13.2'", 13010, None),
        ("2.8.1", "'12.6'", 13010, "torch 2.8.1 is too old: 2.9 is needed"),
        ("2.13.0", "None", 13010, None),
    ],
)
def test_a_pytorch_that_cannot_use_the_gpu(
    version: str,
    cuda: str,
    driver: int,
    problem: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen in its files: it is not imported."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise AssertionError('it was imported')")
    (tmp_path / "torch" / "version.py").write_text(
        f"from typing import Optional\n__version__ = '{version}'\ncuda: Optional[str] = {cuda}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    pretend(monkeypatch, TORCH, 90, torch=version, driver=driver)
    found = choose_target("cuda")
    if problem is None:
        assert (found.name, found.problem) == (CHECKPOINT, None)
    else:
        assert found.problem is not None and problem in found.problem
        assert choose_target("auto").name == "cpu-int8"


def test_a_driver_that_is_too_old_for_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, ONNX, 90, driver=12080)
    assert choose_target("auto").name == "cpu-int8"
    pretend(monkeypatch, ONNX, 90)
    assert choose_target("auto").name == "cuda-fp16"


def test_doctor_and_models_say_which_and_why(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for installed, sms, target, sentence in (
        (TORCH, (90,), "torch", "a checkpoint, which PyTorch runs on the GPU: the fastest here"),
        (ONNX, (90,), "cuda-fp16", "a bundle for cuda-fp16: with ONNX Runtime; a checkpoint with"),
        (ONNX, (), "cpu-int8", "a bundle for cpu-int8: no NVIDIA GPU can be used here."),
    ):
        pretend(monkeypatch, installed, *sms)
        monkeypatch.setattr(report_module, "find_gpus", gpu.find_gpus)
        for command in ("doctor", "models"):
            text = " ".join(CliRunner().invoke(app, [command]).stdout.split())
            assert f"means {sentence}" in text
            data = json.loads(CliRunner().invoke(app, [command, "--json"]).stdout)
            assert data["by_name"]["target"] == target
            assert data["by_name"]["why"] in text
    assert not cache.exists(), "to tell is not to write"
