"""A checkpoint captioned as it is, against the bundle that was exported of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from altogether_rt.artifacts.checkpoint import Checkpoint, save_checkpoint
from altogether_rt.captioner import Captioner
from altogether_rt.cli.main import app
from altogether_rt.errors import AltogetherError, MissingDependencyError
from altogether_rt.machine import torch_gpu
from altogether_rt.runtime.torch import open as torch_open
from altogether_rt.runtime.torch.arithmetic import Arithmetic
from altogether_rt.runtime.torch.device.api import HostDevice
from altogether_rt.runtime.torch.open import resolve_checkpoint
from altogether_rt.runtime.torch.runtime import TorchRuntime
from tests.machine.fake_driver import pretend_gpus
from tests.runtime.conftest import BundleOf
from tests.runtime.rows import Row, run_step, speak
from tests.tiny import (
    FAMILIES,
    IMAGE_SIZE,
    save_tiny_checkpoint,
    tiny_config,
    tiny_model,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return save_tiny_checkpoint(tmp_path, monkeypatch)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_captions_are_those_of_the_bundle(
    temperature: float, folder: Path, bundle_of: BundleOf
) -> None:
    rng = np.random.default_rng(5)
    images = [rng.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8) for _ in range(6)]
    alts = ["w9 w8 w7", "", "w20 w21 w22 w23", "w5", "w90 w91", "w50 w51 w52"]
    captions = []
    for captioner in (
        Captioner.load(bundle_of("opt", "cpu-fp32"), threads=1, num_slots=3),
        Captioner.load(folder, num_slots=3),
    ):
        with captioner:
            params = captioner.params(temperature=temperature, max_new_tokens=8)
            captions.append([each.text for each in captioner.caption(images, alts, params)])
    assert captions[0] == captions[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fixed_decode_step_is_the_step(family: str) -> None:
    """What is captured on a GPU computes the same as what takes any step."""
    config = tiny_config(family)
    answers = []
    for fixed in (False, True):
        with TorchRuntime(tiny_model(config), num_slots=3, fixed_decode=fixed) as runtime:
            visual = runtime.map(np.eye(3, 12, dtype=np.float32))
            rows = [Row(), Row(), Row()]
            results = run_step(runtime, [row.bring([5], visual[0]) for row in rows[:2]])
            for token in (9, 10):
                results += run_step(runtime, [row.bring([token]) for row in rows[:2]])
            results += run_step(runtime, [*(row.bring([7]) for row in rows)])
            results += run_step(runtime, [rows[0].bring([8, 9]), rows[1].bring([3])])
            results += run_step(runtime, [row.bring([4]) for row in rows])
            (last,) = run_step(runtime, [rows[0].bring([6])], want_logits=False)
            answers.append([*results, last])
            assert bool(runtime._decode_steps) == fixed
    for found, wanted in zip(*answers, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_the_fixed_decode_step_keeps_within_the_slot() -> None:
    runtime = TorchRuntime(tiny_model(tiny_config()), num_slots=1, fixed_decode=True)
    with runtime, pytest.raises(AssertionError, match="longer than its cache slot"):
        run_step(runtime, [Row(past=runtime.capacity).bring([5])])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(dtype: torch.dtype, bundle_of: BundleOf) -> None:
    bundle = bundle_of("opt", "cpu-fp32")
    with (
        TorchRuntime(tiny_model(bundle.config), num_slots=4) as exact,
        TorchRuntime(tiny_model(bundle.config), num_slots=4, dtype=dtype) as half,
    ):
        assert half._cache.keys.dtype == dtype
        for found, wanted in zip(speak(half, bundle), speak(exact, bundle), strict=True):
            norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(wanted, axis=-1)
            assert ((found * wanted).sum(-1) / norms).min() > 0.995


def test_identity_depends_on_weights_and_dtype(folder: Path) -> None:
    def identity(dtype: str) -> str:
        opened = resolve_checkpoint(folder, device="cpu", dtype=dtype)
        return opened.identity

    assert identity("auto") == identity("float32")
    assert identity("bfloat16") != identity("float32")
    before = identity("float32")
    checkpoint = Checkpoint.load(folder)
    model = tiny_model(checkpoint.config, seed=1)
    state = {name: value for name, value in model.state_dict().items() if "encoder" not in name}
    save_checkpoint(folder, checkpoint.config, state, folder / "tokenizer.json", {})
    assert identity("float32") != before


def test_devices_that_a_checkpoint_does_not_run_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpus(monkeypatch)
    with pytest.raises(AltogetherError, match="cuda cannot be used: there is no NVIDIA driver"):
        Captioner.load(folder, device="cuda")
    pretend_gpus(monkeypatch, 89)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(AltogetherError, match=r"PyTorch \S+ here cannot use CUDA: run pip install"):
        Captioner.load(folder, device="cuda:0")
    with pytest.raises(AltogetherError, match="export it for TensorRT"):
        Captioner.load(folder, device="tensorrt")
    with pytest.raises(AltogetherError, match="there is no dtype 'int8'"):
        resolve_checkpoint(folder, dtype="int8")
    assert torch_open._torch_device("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_open._torch_device("auto") == "cuda:0"


def test_a_gpu_is_given_the_kernels_or_plain_pytorch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The CPU stands in for the GPU; which runtime it is given is what counts."""

    def opened(failure: str | None) -> str:
        monkeypatch.setattr(torch_open, "kernel_failure", lambda *_: failure)
        resolved = resolve_checkpoint(folder, device="cuda", dtype="float32")
        object.__setattr__(resolved, "torch_device", "meta")  # not the CPU, and not there
        monkeypatch.setattr(torch_open, "TorchRuntime", lambda *_, **__: object())
        runtime: object = resolved.open(num_slots=2)
        return type(runtime).__name__

    pretend_gpus(monkeypatch, 90)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch_open, "_cuda_device", lambda name: HostDevice())
    monkeypatch.setattr(torch_gpu, "has_module", lambda name: True)
    monkeypatch.setattr("shutil.which", lambda name: "/bin/gcc")
    assert opened(None) == "DeviceTorchRuntime"
    assert opened("ptxas is missing") == "object"
    assert "plain PyTorch runs, which is slower: ptxas is missing" in caplog.text
    monkeypatch.setattr(torch_gpu, "has_module", lambda name: False)
    assert opened(None) == "object"
    resolved = resolve_checkpoint(folder, device="cuda")
    assert resolved.slow_because is not None
    assert "Triton is not installed" in resolved.slow_because


def test_slots_fill_a_gpu_and_fit_into_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, 90)  # 24 GiB
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    resolved = resolve_checkpoint(folder, device="cuda")

    def slots(layers: int, width: int) -> int:
        decoder = replace(resolved.config.decoder, layers=layers, width=width)
        config = replace(resolved.config, decoder=decoder)
        return replace(resolved, config=config)._fitting_slots()

    assert slots(2, 64) == 256  # of the tiny model as many as are of use
    # 34 tokens a slot, 2 · 1,280 numbers of two bytes a layer and token: 174,080 bytes a layer.
    assert slots(512, 1280) == int(0.4 * (24 << 30) / (174_080 * 512)) // 8 * 8 == 112
    # A slot has 34 · 4 · 16,384 · 512 bytes, 1.1 GB of the 10.3 that the cache may have.
    assert slots(512, 16_384) == 9 // 8 * 8 == 8
    assert slots(512, 32_768) == 4
    resolved = replace(resolved, arithmetic=Arithmetic("float16", "int8"))
    # A byte a number, and a scale of four bytes for each of the keys and values of 4 heads.
    assert resolved.config.decoder.num_kv_heads == 4
    assert slots(512, 1280) == int(0.4 * (24 << 30) / (34 * 2 * 1296 * 512)) // 8 * 8 == 224


def test_without_torch_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from altogether_rt import opening

    monkeypatch.setattr(opening, "has_module", lambda name: name != "torch")
    with pytest.raises(MissingDependencyError, match=r"pip install 'altogether-rt\[train\]'"):
        Captioner.load(folder)


def test_commands_take_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    from PIL import Image
    from typer.testing import CliRunner

    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (20, 20), "red").save(images / "a.png")
    out = tmp_path / "captions.jsonl"
    arguments = ["caption", str(images), "--bundle", str(folder), "--out", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert out.read_text().count('"caption"') == 1
    arguments = ["bench", "--bundle", str(folder), "--quick", "--batch-sizes", "2", "--quiet"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["target"], report["device"]) == ("torch", "cpu")
    assert {stage["stage"] for stage in report["stages"]} >= {"encoder", "decode", "whole"}
