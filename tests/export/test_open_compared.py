"""Checkpoints opened in fp8, or with a cache in 8 bits: what computes, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from altogether_rt.captioner import Captioner
from altogether_rt.errors import AltogetherError
from altogether_rt.export import open_compared as open_module
from altogether_rt.export.float8 import observed
from altogether_rt.export.recipes import find_recipe
from altogether_rt.export.samples import draw_samples
from altogether_rt.machine import torch_gpu
from altogether_rt.opening import Dtype, KVCacheType, resolve_captioner
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.runtime.torch import open as torch_open
from altogether_rt.runtime.torch.device.api import HostDevice
from altogether_rt.runtime.torch.device.runtime import DeviceTorchRuntime
from altogether_rt.runtime.torch.open import ResolvedCheckpoint
from altogether_rt.runtime.torch.runtime import TorchRuntime
from tests.machine.fake_driver import pretend_gpus
from tests.tiny import (
    IMAGE_SIZE,
    save_tiny_checkpoint,
    tiny_config,
    tiny_model,
    tiny_tokenizer,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint, and a GPU for which the CPU stands in."""
    pretend_gpus(monkeypatch, 89)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch_open, "_cuda_device", lambda name: HostDevice())
    monkeypatch.setattr(torch_open, "kernel_failure", lambda *_: None)
    monkeypatch.setattr(torch_gpu, "has_module", lambda name: True)
    monkeypatch.setattr("shutil.which", lambda name: "/bin/gcc")
    monkeypatch.setattr(open_module, "observed", lambda model, samples, _: observed(model, samples))
    return save_tiny_checkpoint(tmp_path, monkeypatch)


def loose_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of random weights and 64 numbers a token is not one to judge fp8 by."""
    monkeypatch.setattr(open_module, "_check", lambda *_: None)


@pytest.mark.parametrize("num_slots", [3, None])
def test_prompts_are_in_fp8(
    folder: Path, num_slots: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose_bars(monkeypatch)
    resolved = resolve_captioner(folder, device="cuda", dtype="float8")
    assert (resolved.weights, resolved.cache) == ("float8", "float16")
    other = resolve_captioner(folder, device="cuda")
    assert (other.weights, other.bundle_id) != ("float8", resolved.bundle_id)
    parts = resolved.open(num_slots=num_slots)
    assert isinstance(parts.runtime, DeviceTorchRuntime)
    packing: Any = parts.runtime._packing
    assert (packing.float8, packing.float8_steps, packing.dtype) == (True, False, torch.float16)
    image = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    with Captioner(parts) as captioner:
        params = captioner.params(max_new_tokens=4)
        assert len(captioner.caption([image] * 4, None, params)) == 4


@pytest.mark.parametrize(
    ("dtype", "kv_cache", "steps"),
    [("float16", "int8", False), ("float16", "float8", False), ("float8-all", "int8", True)],
)
def test_keys_and_values_are_kept_in_8_bits(
    folder: Path,
    dtype: Dtype,
    kv_cache: KVCacheType,
    steps: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if steps:
        loose_bars(monkeypatch)
    resolved = resolve_captioner(folder, device="cuda", dtype=dtype, kv_cache=kv_cache)
    assert (resolved.weights, resolved.cache) == (dtype, kv_cache)
    ids = {
        resolve_captioner(folder, device="cuda", dtype=other, kv_cache=cache).bundle_id
        for other in ("float16", "float8", "float8-all")
        for cache in ("auto", "int8", "float8")
    }
    assert len(ids) == 9 and resolved.bundle_id in ids
    runtime: Any = resolved.open(num_slots=4).runtime
    assert isinstance(runtime, DeviceTorchRuntime)
    kept = {"int8": torch.int8, "float8": torch.float8_e4m3fn}[kv_cache]
    assert runtime._cache.stored.dtype == kept and runtime._cache.scales is not None
    assert runtime._packing.float8_steps == steps
    runtime.close()


def test_a_loss_of_precision_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(DeviceTorchRuntime, "close", lambda self: closed.append(self))
    recipe = find_recipe("tensorrt-fp8")
    strict = {
        stage: type(bar)(mean=0.999999, worst=bar.worst) for stage, bar in recipe.parity.items()
    }
    monkeypatch.setattr(
        open_module,
        "find_recipe",
        lambda name: type(recipe)(recipe.target, recipe.lowering, strict),
    )
    resolved = resolve_captioner(folder, device="cuda", dtype="float8")
    with pytest.raises(
        AltogetherError, match=r"^in float8 the \w+ of .* \(0.97\) is required: use "
    ):
        resolved.open()
    assert len(closed) == 1
    with pytest.raises(AltogetherError) as caught:
        resolve_captioner(folder, device="cuda", kv_cache="int8").open()
    assert str(caught.value).startswith("in float16 with a KV cache in int8 the ")
    assert str(caught.value).endswith("is required: use --kv-cache auto.")


def test_products_that_fail_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")

    monkeypatch.setattr(DeviceTorchRuntime, "encode", fail)
    resolved = resolve_captioner(folder, device="cuda", dtype="float8")
    with pytest.raises(
        AltogetherError, match=r"cannot be used here, as it fails: .*CUBLAS_STATUS_NOT_SUPP"
    ):
        resolved.open()


def test_where_fp8_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(
        device: str = "cuda", dtype: Dtype = "float8", kv_cache: KVCacheType = "auto"
    ) -> str:
        with pytest.raises(AltogetherError) as caught:
            resolve_captioner(folder, device=device, dtype=dtype, kv_cache=kv_cache).open()
        return str(caught.value)

    def cache_refusal(device: str = "cuda", kv_cache: KVCacheType = "int8") -> str:
        return refusal(device, "float16", kv_cache)

    assert refusal("cpu") == "float8 needs an NVIDIA GPU: use float32, or --device cuda."
    assert cache_refusal("cpu") == (
        "float16 with a KV cache in int8 needs an NVIDIA GPU: use --kv-cache auto, or --device "
        "cuda."
    )
    assert refusal(kv_cache="int4") == (  # type: ignore[arg-type]
        "there is no KV cache 'int4': give auto, int8, float8."
    )
    monkeypatch.setattr(torch_open, "kernel_failure", lambda *_: "ptxas is missing")
    assert refusal().startswith(
        "float8 cannot be used here, since Triton's kernels do not run: ptx"
    )
    monkeypatch.setattr(torch_gpu, "has_module", lambda name: False)
    assert refusal().startswith("float8 cannot be used here: Triton is not installed")
    pretend_gpus(monkeypatch, 86)
    assert refusal() == "float8 needs compute capability 8.9, and Fake 0 has 8.6: use float16."
    assert refusal(dtype="float8-all", kv_cache="int8") == (
        "float8-all with a KV cache in int8 needs compute capability 8.9, and Fake 0 has 8.6: use "
        "float16."
    )
    assert cache_refusal(kv_cache="float8").endswith("Fake 0 has 8.6: use --kv-cache int8.")
    assert cache_refusal().startswith(
        "float16 with a KV cache in int8 cannot be used here: Triton is not installed"
    )


def test_it_is_opened_with_its_outliers_smoothed_alone(folder: Path) -> None:
    checkpoint = resolve_captioner(folder, device="cuda", dtype="float8").checkpoint
    assert isinstance(checkpoint, ResolvedCheckpoint)
    with pytest.raises(AssertionError, match="open_compared"):
        checkpoint.open()


def test_the_command_says_where_fp8_is_not_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image
    from typer.testing import CliRunner

    from altogether_rt.cli.main import app

    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 20), "red").save(tmp_path / "images" / "a.png")
    arguments = ["caption", str(tmp_path / "images"), "--out", str(tmp_path / "o.jsonl")]
    arguments += ["--bundle", str(folder), "--dtype", "float8"]
    pretend_gpus(monkeypatch, 80)
    done = CliRunner().invoke(app, [*arguments, "--device", "cuda"])
    assert (done.exit_code, done.exception.__class__) == (1, SystemExit)
    assert "float8 needs compute capability 8.9, and Fake 0 has 8.0: use float16." in done.stderr
    assert CliRunner().invoke(app, [*arguments[:-1], "float9"]).exit_code == 2
    arguments[-2:] = ["--kv-cache", "float8"]
    done = CliRunner().invoke(app, [*arguments, "--device", "cuda"])
    assert done.exit_code == 1 and "Fake 0 has 8.0: use --kv-cache int8." in done.stderr
    assert CliRunner().invoke(app, [*arguments[:-1], "int4"]).exit_code == 2
    done = CliRunner().invoke(app, [*arguments, "--bundle", "starter"])
    assert done.exit_code == 1 and "its target fixes the type of its cache" in done.stderr


def test_nothing_of_an_export_is_needed() -> None:
    """A machine with a GPU and PyTorch may have no onnx."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('onnx', 'onnxruntime', 'onnx_ir')));"
        "import altogether_rt.export.open_compared"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_observed_is_not_captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU steps are captured by themselves; the CPU stands in for one that does."""

    def on_gpu(*given: Any, fixed_decode: bool | None = None, **options: Any) -> TorchRuntime:
        captured = True if fixed_decode is None else fixed_decode
        return TorchRuntime(*given, fixed_decode=captured, **options)

    monkeypatch.setattr("altogether_rt.export.float8.TorchRuntime", on_gpu)
    monkeypatch.setattr(
        "altogether_rt.runtime.torch.runtime.DecodeStep", lambda *_: pytest.fail("it is captured")
    )
    model = tiny_model(tiny_config())
    path = tiny_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = PromptTokenizer.of_captioner(path, model.config)
    recording, calibration = observed(model, draw_samples(model.config, tokenizer))
    assert len(recording.steps) > 1  # prompts, then single tokens
    assert "decoder.layers.0.q" in calibration.inputs
