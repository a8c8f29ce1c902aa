"""What a GPU may refuse, and what runs instead of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from altogether_rt.runtime.torch.device.api import CudaDevice, HostDevice
from altogether_rt.runtime.torch.device.runtime import DeviceTorchRuntime
from altogether_rt.runtime.torch.kernels.choice import PLAIN, prompts_failure
from altogether_rt.runtime.torch.kernels.slots import HeadLayout, PromptRows
from tests.runtime.torch.device.test_device_runtime import history
from tests.tiny import tiny_config, tiny_model


def test_attention_within_prompts_is_tried_first() -> None:
    """As it is called on a GPU: of several prompts, grouped heads, and one token."""
    device, heads = torch.device("cpu"), HeadLayout(4, 2, 16)

    def prompts_failure_of(attend: Callable[..., Tensor]) -> str | None:
        return prompts_failure(attend, device, torch.bfloat16, heads)

    def mixed(qkv: Tensor, prompts: PromptRows, heads: HeadLayout) -> Tensor:
        whole = replace(prompts, lengths=(sum(prompts.lengths),))
        return PLAIN.attend_prompts(qkv, whole, heads)

    def missing(*_: object) -> Tensor:
        raise TypeError("varlen_attn() got an unexpected keyword argument")

    assert prompts_failure_of(PLAIN.attend_prompts) is None
    why = prompts_failure_of(mixed)
    assert why is not None and "other numbers" in why
    why = prompts_failure_of(missing)
    assert why is not None and "unexpected keyword" in why


class NoGraphs(HostDevice):
    """Captures nothing."""

    def capture(self, run: Callable[[], None], stream: None) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")


def test_steps_that_cannot_be_captured_run_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kernels = replace(PLAIN, capturable=True)  # the CPU waits for nothing
    found = []
    for device in (NoGraphs(), HostDevice()):
        model = tiny_model(tiny_config())
        with DeviceTorchRuntime(
            model, device, num_slots=4, dtype=torch.float32, kernels=kernels
        ) as runtime:
            runtime._verify_graphs._buckets.clear()  # padded, its sums have another order
            found.append(history(runtime))
            assert (runtime._graphs.num_captured > 0) == (type(device) is HostDevice)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert caplog.text.count("run uncaptured, which is slower: operation not permitted") == 1


def test_what_is_uploaded_may_be_read_only_or_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinned memory needs a GPU, so ordinary memory stands in for it."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory, **given: empty(*size, **given))
    device = CudaDevice()
    monkeypatch.setattr(device, "_device", torch.device("cpu"))
    pixels = np.broadcast_to(np.arange(6, dtype=np.uint8)[:, None], (6, 4))  # neither own nor whole
    for array in (pixels, pixels[::2, 1:], np.zeros((0, 3), np.float32), np.arange(3)):
        found = device.upload(array)
        assert found.numpy().dtype == array.dtype
        np.testing.assert_array_equal(found.numpy(), array)
