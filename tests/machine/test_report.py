"""What `doctor` finds and says, on machines and installations that are pretended."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.cli.main import app
from altogether_rt.errors import BundleError
from altogether_rt.machine import report as machine_module
from altogether_rt.machine import torch_gpu
from altogether_rt.machine.limits import MachineLimits, read_limits
from altogether_rt.machine.report import examine, missing_packages, read_processor
from tests.machine.pretended import ALL, abilities, doctor, pretend

pytestmark = pytest.mark.lean


def test_a_machine_that_has_all_but_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, ALL, driver=False)
    found = abilities(doctor("--json"))
    ready = {name for name, (is_ready, _, _) in found.items() if is_ready}
    assert ready == {
        "the starter bundle",
        "caption on the processor with ONNX Runtime",
        "caption on the processor with PyTorch",
        "train, import weights, init",
        "log training for TensorBoard",
        "export, import bundles",
        "read HEIC images",
    }
    assert "there is no NVIDIA driver" in found["caption on a GPU with TensorRT"][1]
    assert (
        "the installed onnxruntime 1.32.0 has no CUDAExecutionProvider: run pip uninstall"
        in (found["caption on a GPU with ONNX Runtime"][1])
    )


def test_what_is_not_installed_has_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    old = {"torch": "2.8.1+cu128", "safetensors": "0.1", "open-clip-torch": "3.3.0"}
    pretend(monkeypatch, old, 89)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    found = abilities(doctor("--json"))
    assert found["caption on the processor with ONNX Runtime"] == (
        False,
        "onnxruntime is not installed",
        "pip install 'altogether-rt[cpu]'",
    )
    assert found["caption on a GPU with ONNX Runtime"] == (
        False,
        "onnxruntime-gpu is not installed",
        "pip install 'altogether-rt[gpu]'",
    )
    assert found["caption on a GPU with TensorRT"] == (
        False,
        "tensorrt-rtx is not installed; cuda-python is not installed",
        "pip install 'altogether-rt[tensorrt]'",
    )
    assert found["train, import weights, init"][1] == "torch 2.8.1+cu128 is too old: 2.9 is needed"
    assert found["export, import bundles"] == (
        False,
        "torch 2.8.1+cu128 is too old: 2.9 is needed; onnx is not installed; "
        "onnxruntime is not installed",
        "pip install 'altogether-rt[export]'",
    )
    assert found["read HEIC images"][2] == "pip install 'altogether-rt[heic]'"


def test_a_machine_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    without = {name: version for name, version in ALL.items() if name != "onnxruntime"}
    pretend(monkeypatch, {**without, "onnxruntime-gpu": "1.31.1"}, 89, 121)
    found = abilities(doctor("--json"))
    assert found["caption on a GPU with ONNX Runtime"][0]
    assert found["caption on a GPU with TensorRT"][0]
    assert (
        "onnxruntime-gpu 1.31.1 is installed instead of onnxruntime"
        in (found["caption on the processor with ONNX Runtime"][1])
    )
    data = json.loads(doctor("--json").stdout)
    assert [gpu["sm"] for gpu in data["gpu"]["gpus"]] == [89, 121]
    text = doctor().stdout
    assert "for CUDA up to 13.1" in text
    assert "Fake 1, compute capability 12.1, 25.8 GB" in text
    assert "ready    caption on a GPU with TensorRT" in text
    assert "missing  caption on the processor with ONNX Runtime: onnxruntime-gpu 1.31.1" in text


def test_what_runs_on_a_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    built = {**ALL, "torch": "2.13.0"}
    pretend(monkeypatch, built, driver=False)
    assert "--device cuda cannot be used: there is no NVIDIA driver" in doctor().stdout
    pretend(monkeypatch, ALL, 90)
    assert "PyTorch 2.13.0+cpu is a build for processors: run pip" in doctor().stdout
    assert not abilities(doctor("--json"))["caption on a GPU with PyTorch"][0]
    for sm, modules, path, sentence in (
        (90, {"triton"}, "/bin", "fastest with a checkpoint: PyTorch in float16"),
        (90, {"triton"}, "", "in plain PyTorch, slower: Triton needs a C compiler"),
        (90, set(), "/bin", "in plain PyTorch, slower: Triton is not installed"),
        (75, {"triton"}, "/bin", "need compute capability 8.0, and this GPU has 7.5."),
    ):
        pretend(monkeypatch, built, sm)
        monkeypatch.setattr(torch_gpu, "has_module", modules.__contains__)
        monkeypatch.setattr("shutil.which", lambda name, path=path: path or None)
        monkeypatch.delenv("CC", raising=False)
        assert sentence in json.loads(doctor("--json").stdout)["on_gpu"]
    without = {name: version for name, version in ALL.items() if name != "onnxruntime"}
    pretend(monkeypatch, {**without, "onnxruntime-gpu": "1.31.1", "cuda-python": "13.1"}, 90)
    said = json.loads(doctor("--json").stdout)["on_gpu"]
    assert "with bundles for cuda, with ONNX Runtime" in said


def test_either_tensorrt_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"cuda-python": "13.1", "tensorrt": "11.4"}, 90)
    monkeypatch.setattr(machine_module, "has_module", lambda name: name == "tensorrt")
    monkeypatch.setattr(machine_module, "onnxruntime_providers", lambda: ())
    assert abilities(doctor("--json"))["caption on a GPU with TensorRT"][0]


def test_a_broken_starter_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise BundleError("the starter bundle is missing from this installation: reinstall it.")

    monkeypatch.setattr(Bundle, "load", load)
    text = doctor().stdout
    assert "missing  the starter bundle: the starter bundle is missing from this" in text
    assert "-> pip install --force-reinstall altogether-rt" in text


def test_processors_are_read(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: Zen\nflags\t\t: fpu avx2 avx512f avx512_vnni\nflags : x\n")
    found = read_processor(2, cpuinfo)
    assert (found.name, found.features) == ("Zen", ("AVX2", "AVX512", "AVX512-VNNI"))
    assert found.fast_int8
    cpuinfo.write_text("model name : Old\nflags : fpu avx2\n")
    assert not read_processor(2, cpuinfo).fast_int8
    cpuinfo.write_text("Features : fp asimddp\n")
    assert read_processor(2, cpuinfo).fast_int8
    assert read_processor(2, tmp_path / "absent").features == ()


def test_the_real_requirements_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed, and run from source: the same packages."""
    installed = set(machine_module._requirements("export"))
    assert {"torch", "onnx", "onnxscript"} <= {name for name, _ in installed}

    def absent(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    project = Path(machine_module.__file__).parents[2] / "pyproject.toml"
    if project.is_file():
        monkeypatch.setattr(importlib.metadata, "requires", absent)
        assert set(machine_module._requirements("export")) == installed
    assert missing_packages("no-such-extra") == []


def test_nothing_heavy_is_imported(root: Path) -> None:
    code = (
        "import sys; from altogether_rt.machine.limits import read_limits; "
        "from altogether_rt.machine.report import examine; examine(read_limits());"
        "print(*{'torch', 'onnxruntime', 'transformers', 'onnx', 'tensorrt'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_this_machine() -> None:
    found = examine(read_limits())
    assert any(
        ability.name == "the starter bundle" and ability.ready for ability in found.abilities
    )
    assert "cpu" in found.providers


@pytest.mark.parametrize(
    ("limits", "cores", "memory"),
    [
        (MachineLimits(64, 64, None, 128 * 10**9, None), "64", "128 GB"),
        (
            MachineLimits(64, 64, 1.5, 128 * 10**9, 4 * 10**9),
            "2 (quota of the control group: 1.5)",
            "4 GB (limit of the control group)",
        ),
        (MachineLimits(8, 3, None, None, None), "3 (bound to 3 of them)", ""),
    ],
)
def test_doctor_shows_what_of_the_machine_it_may_use(
    monkeypatch: pytest.MonkeyPatch, limits: MachineLimits, cores: str, memory: str
) -> None:
    monkeypatch.setattr("altogether_rt.cli.commands.doctor.read_limits", lambda: limits)
    shown = CliRunner().invoke(app, ["doctor"]).stdout
    rows = dict(re.findall(r"│ (\w[\w ]*?) +│ +(.*?) +│", shown))
    assert rows["cores to use"] == cores
    assert rows.get("memory to use", "") == memory
    data = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)["limits"]
    assert data["cores"] == limits.cores
    assert data["memory_bytes"] == limits.memory_bytes
