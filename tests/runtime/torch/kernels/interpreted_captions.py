"""The whole path for GPUs with its kernels in Triton's interpreter; see `test_kernels.py`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from altogether_rt.captioner import Captioner
from altogether_rt.opening import CaptionerParts
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.runtime.torch.device.api import HostDevice
from altogether_rt.runtime.torch.device.runtime import DeviceTorchRuntime
from altogether_rt.runtime.torch.kernels import attention, choice
from altogether_rt.runtime.torch.kernels.choice import PLAIN, kernel_failure, triton_kernels
from altogether_rt.runtime.torch.kernels.choice_of_rows import PLAIN_ROWS, triton_row_kernels
from altogether_rt.runtime.torch.kernels.slots import HeadLayout
from altogether_rt.runtime.torch.runtime import TorchRuntime
from tests.runtime.rows import Row, run_step
from tests.runtime.torch.device.test_device_runtime import history, pixels_of
from tests.tiny import tiny_config, tiny_model, tiny_tokenizer


def opened(family: str, num_slots: int, dtype: torch.dtype = torch.float32) -> DeviceTorchRuntime:
    return DeviceTorchRuntime(
        tiny_model(tiny_config(family)),
        HostDevice(),
        num_slots=num_slots,
        dtype=dtype,
        kernels=triton_kernels(),
        rows=triton_row_kernels(),
    )


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_it_computes_what_the_reference_does(family: str) -> None:
    with opened(family, 4) as runtime:
        found = history(runtime)
        assert runtime._graphs.num_captured > 0
    with TorchRuntime(tiny_model(tiny_config(family)), num_slots=4) as reference:
        wanted = history(reference)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_prompts_in_fp8_are_what_the_plain_rows_compute() -> None:
    """But for the interpreter, which loses a carry where it rounds up to a power of two."""
    both = []
    for rows in (triton_row_kernels(), PLAIN_ROWS):
        model = tiny_model(tiny_config("opt"))
        with DeviceTorchRuntime(
            model, HostDevice(), num_slots=4, dtype=torch.float16, float8="prompts",
            kernels=PLAIN, rows=rows,
        ) as runtime:  # fmt: skip
            visual = runtime.map(runtime.encode(pixels_of(1)))[0]
            both.append(np.concatenate(run_step(runtime, [Row().bring([5, 9], visual)])).ravel())
    found, wanted = both
    assert found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted) > 0.99


def test_captions_are_those_of_the_reference(tmp_path: Path) -> None:
    config = tiny_config("llama")
    path = tiny_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = PromptTokenizer.of_captioner(path, config)
    texts = []
    for runtime in (opened("llama", 3), TorchRuntime(tiny_model(config), num_slots=3)):
        parts = CaptionerParts(config, runtime, tokenizer, "0" * 12, None)
        with Captioner(parts) as captioner:
            params = captioner.params(temperature=0, max_new_tokens=6)
            alts = ["w9 w8", "", "w20 w21 w22", "w5"]
            texts.append([each.text for each in captioner.caption([*pixels_of(4)], alts, params)])
    assert texts[0] == texts[1]


def test_kernels_that_cannot_run_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    device, heads = torch.device("cpu"), HeadLayout(2, 1, 16)
    why = kernel_failure(device, torch.float16, heads)
    assert why is not None and "NVIDIA GPU" in why
    kernels = triton_kernels()
    monkeypatch.setattr(choice, "choose_kernels", lambda *_: (kernels, None))
    assert kernel_failure(device, torch.float16, heads) is None
    assert kernel_failure(device, torch.float16, heads, "int8") is None

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("ptxas is missing")

    monkeypatch.setattr(attention, "store_kernel", {(2, 1): broken})
    why = kernel_failure(device, torch.float16, heads)
    assert why is not None and "ptxas is missing" in why


def test_kernels_that_compute_something_else_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    device, heads = torch.device("cpu"), HeadLayout(2, 1, 16)
    kernels = triton_kernels()

    def wrong(*arguments: object) -> torch.Tensor:
        return kernels.attend(*arguments) * 1.1  # type: ignore[arg-type]

    monkeypatch.setattr(choice, "choose_kernels", lambda *_: (replace(kernels, attend=wrong), None))
    why = kernel_failure(device, torch.float16, heads)
    assert why == "the kernels give other numbers: 0.1 away"
