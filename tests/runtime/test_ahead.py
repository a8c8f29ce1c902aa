"""Steps begun ahead by a thread: captions, order, and what becomes of mistakes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from altogether_rt.generation.engine import Completion, Engine, SequenceRequest
from altogether_rt.runtime.ahead import AheadRuntime
from altogether_rt.runtime.base import UNDECIDED, Runtime, Sampling, StepBatch, StepResult, StepRow
from altogether_rt.runtime.pipelined import ChosenTokens, as_pipelined
from tests.generation.fake_runtime import EOS, FakeRuntime
from tests.generation.pipelined_runtime import WanderingRuntime

WIDTH = 2  # of a visual token


def workload(seed: int, num: int, sampled: bool) -> list[SequenceRequest]:
    rng = np.random.default_rng(seed)
    return [
        SequenceRequest(
            key=key,
            visual_tokens=np.full((2, WIDTH), key, np.float32),
            prompt_ids=rng.integers(3, 40, rng.integers(1, 5)).tolist(),
            max_new_tokens=int(rng.integers(1, 14)),
            seed=key,
            temperature=float(rng.choice([0.0, 1.0])) if sampled else 0.0,
            top_p=0.9,
        )
        for key in range(num)
    ]


def written(runtime: Runtime, requests: list[SequenceRequest]) -> tuple[list[Completion], Engine]:
    engine = Engine(runtime, EOS, speculation="off")
    return sorted(engine.run(requests), key=lambda done: done.key), engine


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("slots", [1, 2, 3, 8])
def test_captions_are_those_of_steps_that_are_waited_for(slots: int, sampled: bool) -> None:
    requests = workload(slots, 24, sampled)
    with AheadRuntime(lambda: WanderingRuntime(slots)) as runtime:
        assert as_pipelined(runtime) is runtime
        found, engine = written(runtime, requests)
    assert found == written(WanderingRuntime(slots), requests)[0]
    assert {done.finish_reason for done in found} >= {"eos", "length"}
    assert engine.stats.num_dropped_tokens > 0  # rows that had ended were begun again


class Meeting(WanderingRuntime):
    """Its steps end only when the caller is doing something else meanwhile."""

    def __init__(self, num_slots: int) -> None:
        super().__init__(num_slots)
        self.met = threading.Event()

    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        assert self.met.wait(30), "the caller waits for a step before it begins the next one"
        return super().step(batch, want_logits)


def test_the_next_step_is_begun_while_this_one_runs() -> None:
    opened: list[Meeting] = []

    def open_it() -> Meeting:
        opened.append(Meeting(2))
        return opened[0]

    with AheadRuntime(open_it) as runtime:
        prompts = [StepRow([5, 6]), StepRow([7, 8, 9])]
        first = runtime.begin(StepBatch.from_rows(prompts, WIDTH))
        ids = np.array([1, 1], np.int64)  # the second is known: 1
        lengths = np.array([2, 3], np.int32)
        batch = StepBatch.of_tokens(ids, lengths, WIDTH)
        taken = ChosenTokens(first, np.array([0]), np.array([1]))
        second = runtime.begin(batch, taken)
        runtime.move_slot(0, 1, 3)  # after the second step, and not waited for
        batch.token_ids[:] = 33  # the caller's own from now on
        batch.past_lengths[:] = 0
        opened[0].met.set()
        third = runtime.begin(StepBatch.of_tokens([2, 2], [3, 3], WIDTH))
        found = [step.result().greedy_ids.tolist() for step in (first, second, third)]
    plain = WanderingRuntime(2)
    chosen = plain.step(StepBatch.from_rows(prompts, WIDTH)).greedy_ids.tolist()
    then = plain.step(StepBatch.of_tokens([chosen[1], 1], [2, 3], WIDTH)).greedy_ids.tolist()
    plain.move_slot(0, 1, 3)
    last = plain.step(StepBatch.of_tokens([2, 2], [3, 3], WIDTH)).greedy_ids.tolist()
    assert found == [chosen, then, last]


def test_tokens_that_are_drawn_are_left_to_the_caller() -> None:
    drawn = Sampling(np.array([0.5, 0.5]), np.array([0.0, 1.0]), np.array([1.0, 1.0]))
    batch = StepBatch.from_rows([StepRow([5]), StepRow([6])], WIDTH)
    with AheadRuntime(lambda: WanderingRuntime(2)) as runtime:
        result = runtime.begin(replace(batch, sampling=drawn)).result()
        assert runtime.begin(batch).result().sampled_ids is None
    assert result.logits is not None and result.sampled_ids is not None
    assert result.sampled_ids.tolist() == [result.logits[0].argmax(), UNDECIDED]


class Failing(FakeRuntime):
    """Names the threads that call it; fails as it is told."""

    threads: set[str]
    failing = ""

    def __init__(self) -> None:
        super().__init__(2)
        self.threads = {threading.current_thread().name}
        self.num_closed = 0

    def _enter(self, name: str) -> None:
        self.threads.add(threading.current_thread().name)
        if name == self.failing:
            raise ValueError(f"no {name}")

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        self._enter("encode")
        return np.zeros((len(pixels), 4), np.float32)

    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        self._enter("step")
        return super().step(batch, want_logits)

    def move_slot(self, src: int, dst: int, length: int) -> None:
        self._enter("move_slot")

    def close(self) -> None:
        self._enter("close")
        self.num_closed += 1


def test_all_calls_come_from_one_thread() -> None:
    inner: list[Failing] = []

    def open_it() -> Failing:
        inner.append(Failing())
        return inner[0]

    runtime = AheadRuntime(open_it)
    batch = StepBatch.from_rows([StepRow([5])], WIDTH)
    runtime.encode(np.zeros((1, 2, 2, 3), np.uint8))
    runtime.step(batch)
    runtime.begin(batch).result()
    runtime.move_slot(0, 1, 1)
    runtime.close()
    runtime.close()
    assert inner[0].num_closed == 1
    assert len(inner[0].threads) == 1 and threading.current_thread().name not in inner[0].threads
    assert all(thread.name not in inner[0].threads for thread in threading.enumerate())


def test_a_step_that_fails_is_told_of_where_it_is_asked_for() -> None:
    inner = Failing()
    batch = StepBatch.from_rows([StepRow([5])], WIDTH)
    with AheadRuntime(lambda: inner) as runtime:
        inner.failing = "step"
        first = runtime.begin(batch)
        taken = ChosenTokens(first, np.array([0]), np.array([0]))
        second = runtime.begin(batch, taken)  # what it takes will never be known
        for step in (second, first):
            with pytest.raises(ValueError, match="no step"):
                step.result()
        inner.failing = "move_slot"
        runtime.move_slot(0, 1, 1)
        steps: list[Callable[[], object]] = [
            lambda: runtime.step(batch),
            lambda: runtime.begin(batch).result(),
        ]
        for call in steps:
            with pytest.raises(ValueError, match="no move_slot"):
                call()


def test_one_that_cannot_be_opened_leaves_no_thread() -> None:
    def fail() -> Runtime:
        raise ValueError("no GPU")

    before = threading.active_count()
    with pytest.raises(ValueError, match="no GPU"):
        AheadRuntime(fail)
    assert threading.active_count() == before
