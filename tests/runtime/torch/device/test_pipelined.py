"""Steps begun ahead on the device path: the CPU, and the stand-in that finds mistakes of order."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from altogether_rt.generation.engine import Completion, Engine, SequenceRequest
from altogether_rt.runtime.base import UNDECIDED, Runtime, Sampling, StepBatch, StepRow
from altogether_rt.runtime.pipelined import ChosenTokens, PendingStep, as_pipelined
from altogether_rt.runtime.torch.device import sampling
from altogether_rt.runtime.torch.device.api import CudaDevice, HostDevice
from altogether_rt.runtime.torch.device.runtime import DeviceTorchRuntime
from altogether_rt.runtime.torch.float8 import Float8Products
from altogether_rt.runtime.torch.kernels.choice import PLAIN
from altogether_rt.runtime.torch.kernels.slots import CacheType
from tests.runtime.torch.device.fake_device import FakeDevice
from tests.tiny import tiny_config, tiny_model

WIDTH = 64
#: So that captions end anywhere.
STOP_IDS = (2, *range(0, 97, 9))


class WaitedFor:
    """A runtime that cannot begin steps."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __getattr__(self, name: str) -> Any:
        if name == "begin":
            raise AttributeError(name)
        return getattr(self._runtime, name)


def open_on(
    device: HostDevice | FakeDevice, num_slots: int, family: str = "opt"
) -> DeviceTorchRuntime:
    kernels = replace(PLAIN, capturable=True)  # a CPU does not mind that they wait for it
    return DeviceTorchRuntime(
        tiny_model(tiny_config(family)),
        device,
        num_slots=num_slots,
        dtype=torch.float32,
        kernels=kernels,
    )


def workload(seed: int, num: int, sampled: bool) -> list[SequenceRequest]:
    rng = np.random.default_rng(seed)
    return [
        SequenceRequest(
            key=key,
            visual_tokens=rng.normal(size=(4, WIDTH)).astype(np.float32),
            prompt_ids=rng.integers(3, 90, rng.integers(1, 5)).tolist(),
            max_new_tokens=int(rng.integers(1, 9)),
            seed=key,
            temperature=float(rng.choice([0.0, 1.0])) if sampled else 0.0,
            top_p=0.9,
            loop_repeats=3,
        )
        for key in range(num)
    ]


def written(
    runtime: Runtime, requests: list[SequenceRequest], stop_ids: Sequence[int] = STOP_IDS
) -> tuple[list[Completion], Engine]:
    engine = Engine(runtime, -1, stop_ids, speculation="off")
    return sorted(engine.run(requests), key=lambda done: done.key), engine


@pytest.mark.parametrize("candidates", [None, 256, 24])
@pytest.mark.parametrize(
    ("device_class", "slots"), [(HostDevice, range(1, 9)), (FakeDevice, range(2, 5))]
)
def test_captions_are_those_of_steps_that_are_waited_for(
    device_class: type[HostDevice | FakeDevice],
    slots: range,
    candidates: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """candidates: None: greedy. Of 24 many a draw is left to the host."""
    monkeypatch.setattr(sampling, "MAX_CANDIDATES", candidates or 256)
    ended_early = dropped = 0
    for num_slots in slots:
        requests = workload(num_slots, 12, candidates is not None)
        family = ("opt", "llama")[num_slots % 2]
        device = device_class()
        with device if isinstance(device, FakeDevice) else nullcontext():
            runtime = open_on(device, num_slots, family)
            found, engine = written(runtime, requests)
            assert found == written(WaitedFor(runtime), requests)[0]
        ended_early += sum(each.finish_reason == "eos" for each in found)
        dropped += engine.stats.num_dropped_tokens
    assert 0 < ended_early < 8 * len(slots)
    assert dropped > (3 * len(slots) if candidates == 24 else 0)


def test_a_step_is_begun_before_the_ids_of_the_last_one_are_read() -> None:
    device = FakeDevice()
    with device:
        runtime = open_on(device, 3)
        requests = [replace(each, max_new_tokens=8) for each in workload(1, 7, sampled=False)]
        done = list(Engine(runtime, -1, speculation="off").run(requests))
        assert len(done) == 7
        assert device.downloads == len(device.later_downloads) == 24
        # When a step's ids were waited for, those of the next were on their way; but for the last.
        assert device.later_downloads == [1] * 23 + [0]
        assert device.captures > 0


def test_tokens_are_taken_beside_prompts_and_known_ones() -> None:
    """Every kind of row behind every kind of step, against the same steps with known ids."""
    device = FakeDevice()
    with device, open_on(device, 4) as runtime, open_on(device, 4) as plain:
        visual = np.random.default_rng(2).normal(size=(4, WIDTH)).astype(np.float32)
        prompt = StepRow([7, 8], 0, visual)
        length = 2 + len(visual)
        first = runtime.begin(StepBatch.from_rows([prompt, prompt], WIDTH))
        # Slot 0 takes choice 1 and slot 1 choice 0; then a prompt, and one token known.
        rows = [StepRow([0], length), StepRow([0], length), StepRow([5, 6], 0, visual)]
        chosen = ChosenTokens(first, np.array([0, 1]), np.array([1, 0]))
        second = runtime.begin(StepBatch.from_rows(rows, WIDTH), chosen)
        decode = StepBatch.of_tokens([0, 33, 0], [length + 1] * 2 + [length], WIDTH)
        third = runtime.begin(decode, ChosenTokens(second, np.array([0, 2]), np.array([0, 2])))
        fourth = runtime.begin(
            StepBatch.of_tokens([0], [length + 2], WIDTH),
            ChosenTokens(third, np.array([0]), np.array([2])),
        )
        found = [each.result().greedy_ids for each in (first, second, third, fourth)]
        ids = plain.step(StepBatch.from_rows([prompt, prompt], WIDTH)).greedy_ids
        assert found[0].tolist() == ids.tolist()
        rows[0], rows[1] = StepRow([ids[1]], length), StepRow([ids[0]], length)
        ids = plain.step(StepBatch.from_rows(rows, WIDTH)).greedy_ids
        assert found[1].tolist() == ids.tolist()
        decode = StepBatch.of_tokens([ids[0], 33, ids[2]], decode.past_lengths, WIDTH)
        ids = plain.step(decode).greedy_ids
        assert found[2].tolist() == ids.tolist()
        ids = plain.step(StepBatch.of_tokens(ids[2:], [length + 2], WIDTH)).greedy_ids
        assert found[3].tolist() == ids.tolist()


def test_logits_of_undecided_tokens_outlast_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of one bucket of rows write their logits over each other's; no step is waited for."""
    monkeypatch.setattr(sampling, "MAX_CANDIDATES", 3)
    one = np.ones(2)
    drawn_with = Sampling(0.5 * one, one * [1, 0], 0.9 * one)  # the second row is greedy
    device = FakeDevice()
    with device, open_on(device, 2) as runtime, open_on(device, 2) as plain:
        visual = np.random.default_rng(2).normal(size=(4, WIDTH)).astype(np.float32)
        rows = [StepRow([7 + slot], 0, visual) for slot in range(2)]
        length = 1 + len(visual)
        logits = []
        for each in (runtime, plain):
            each.step(StepBatch.from_rows(rows, WIDTH))
        begun: list[PendingStep] = []
        for token in (5, 9, 30):
            past = [length + len(begun)] * 2
            batch = StepBatch.of_tokens([token, token], past, WIDTH, drawn_with)
            begun.append(runtime.begin(batch))
            logits.append(plain.step(replace(batch, sampling=None), want_logits=True).logits)
        for pending, wanted in zip(begun, logits, strict=True):
            result = pending.result()
            assert result.sampled_ids is not None and result.logits is not None
            assert wanted is not None
            assert result.sampled_ids[0] == UNDECIDED
            assert result.sampled_ids[1] == result.greedy_ids[1]
            np.testing.assert_allclose(result.logits[0], wanted[0], atol=1e-5)
            assert not result.logits[1].any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(
    ("dtype", "kept", "float8"),
    [
        (torch.float32, "same", "none"),
        (torch.float16, "same", "none"),
        (torch.float16, "int8", "none"),
        (torch.float16, "int8", "all"),
    ],
)
def test_on_a_gpu(dtype: torch.dtype, kept: CacheType, float8: Float8Products) -> None:
    """In half precision all captions are of one length, so that both make the same steps."""
    for num_slots in (3, 8):
        requests = workload(num_slots, 40, sampled=dtype == torch.float32)
        if dtype == torch.float16:
            requests = [replace(each, max_new_tokens=16, loop_repeats=0) for each in requests]
        stop_ids = () if dtype == torch.float16 else STOP_IDS
        model = tiny_model(tiny_config("llama"))
        with DeviceTorchRuntime(
            model, CudaDevice(), num_slots=num_slots, dtype=dtype, kept=kept, float8=float8
        ) as runtime:
            found, _ = written(runtime, requests, stop_ids)
            assert found == written(WaitedFor(runtime), requests, stop_ids)[0]


def test_which_runtimes_can_begin_steps() -> None:
    with open_on(HostDevice(), 2) as runtime:
        assert as_pipelined(runtime) is runtime
        waited: Any = WaitedFor(runtime)
        assert as_pipelined(waited) is None
