"""Machines and installations that are pretended, and what `doctor` says of them."""

from __future__ import annotations

import importlib.metadata
import json

import pytest
from typer.testing import CliRunner, Result

from altogether_rt.cli.main import app
from altogether_rt.machine import device as device_module
from altogether_rt.machine import report as machine_module
from altogether_rt.machine import torch_gpu
from altogether_rt.machine.gpu import find_gpus
from tests.machine.fake_driver import FakeDriver

__all__ = ["ALL", "abilities", "doctor", "pretend"]

DECLARED = [
    "numpy>=1.26",
    'onnxruntime>=1.32; extra == "cpu"',
    'onnxruntime-gpu[cuda,cudnn]>=1.31; extra == "gpu"',
    'tensorrt-rtx>=1.7; extra == "tensorrt"',
    'cuda-python>=13; extra == "tensorrt"',
    'torch>=2.9; extra == "train"',
    'safetensors; extra == "train"',
    'open_clip_torch>=3.3; extra == "train"',
    'tensorboard>=2.18; extra == "train"',
    'transformers>=5.0; extra == "train"',
    'altogether-rt[train]; extra == "export"',
    'onnx>=1.20; extra == "export"',
    'onnxruntime>=1.32; extra == "export"',
    'pillow-heif>=1.0; extra == "heic"',
]
ALL = {
    "onnxruntime": "1.32.0",
    "tensorrt-rtx": "1.7.1.116",
    "cuda-python": "13.0.1",
    "torch": "2.13.0+cpu",
    "safetensors": "0.8",
    "open-clip-torch": "3.3.0",
    "tensorboard": "2.21.0",
    "transformers": "5.24.0",
    "onnx": "1.23.2",
    "pillow-heif": "1.0",
}


def pretend(
    monkeypatch: pytest.MonkeyPatch,
    versions: dict[str, str],
    *sms: int,
    driver: bool = True,
    cuda_version: int = 13010,
) -> None:
    report = find_gpus(lambda name: FakeDriver(sms, cuda_version=cuda_version))
    if not driver:

        def load(name: str) -> FakeDriver:
            raise OSError(name)

        report = find_gpus(load)
    monkeypatch.setattr(machine_module, "find_gpus", lambda: report)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: DECLARED)
    for module in (machine_module, device_module, torch_gpu):
        monkeypatch.setattr(module, "installed_version", versions.get)
        monkeypatch.setattr(module, "has_module", lambda name: name in _modules(versions))
    providers = ("cpu", "cuda") if "onnxruntime-gpu" in versions else ("cpu",)
    monkeypatch.setattr(device_module, "onnxruntime_providers", lambda: providers)


def _modules(versions: dict[str, str]) -> set[str]:
    return {"onnxruntime"} if {"onnxruntime", "onnxruntime-gpu"} & set(versions) else set()


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def abilities(result: Result) -> dict[str, tuple[bool, str, str]]:
    data = json.loads(result.stdout)
    return {
        each["name"]: (each["ready"], "; ".join(each["missing"]), each["advice"])
        for each in data["abilities"]
    }
