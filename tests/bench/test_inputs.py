"""What the benchmark feeds to a step is what the engine would."""

from __future__ import annotations

import numpy as np
import pytest

from altogether_rt.bench.inputs import admitted_parts
from altogether_rt.generation.engine import Engine, SequenceRequest
from altogether_rt.runtime.base import StepBatch, StepResult
from tests.generation.fake_runtime import EOS, FakeRuntime


def test_parts_of_some_lengths() -> None:
    assert admitted_parts([5, 5, 5, 5], 10) == [slice(0, 2), slice(2, 4)]
    assert admitted_parts([5, 6, 4], 10) == [slice(0, 2), slice(2, 3)]
    assert admitted_parts([50], 10) == [slice(0, 1)]
    assert admitted_parts([1, 2, 3], 1000) == [slice(0, 3)]


@pytest.mark.parametrize("max_tokens", [1, 12, 40, 1000])
def test_prompts_are_read_in_the_parts_that_the_engine_admits(max_tokens: int) -> None:
    lengths = np.random.default_rng(max_tokens).integers(1, 20, 16).tolist()
    runtime = FakeRuntime(len(lengths))
    runtime.prefill_tokens = max_tokens
    work = [
        SequenceRequest(key, np.zeros((2, 2), np.float32), [7] * length, max_new_tokens=40)
        for key, length in enumerate(lengths)
    ]
    admitted: list[int] = []
    step = runtime.step

    def count(batch: StepBatch, want_logits: bool = False) -> StepResult:
        admitted.append(int((batch.past_lengths == 0).sum()))
        return step(batch, want_logits)

    runtime.step = count  # type: ignore[method-assign]
    list(Engine(runtime, EOS, speculation="off").run(work))
    parts = admitted_parts([2 + length for length in lengths], max_tokens)
    assert [n for n in admitted if n] == [part.stop - part.start for part in parts]
