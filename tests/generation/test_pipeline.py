"""Steps that are begun ahead change no caption, and leave every slot as the plain loop would."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from altogether_rt.generation.engine import Completion, Engine, SequenceRequest
from altogether_rt.runtime.base import StepBatch, StepResult
from altogether_rt.runtime.pipelined import ChosenTokens
from altogether_rt.speculation.planner import DraftPlanner, Speculation
from altogether_rt.speculation.step_cost import StepCost
from tests.generation.fake_runtime import EOS, FakeRuntime
from tests.generation.pipelined_runtime import (
    PendingFake,
    PipelinedFakeRuntime,
    WanderingRuntime,
)
from tests.generation.restless import Restless

pytestmark = pytest.mark.lean

STOP_IDS = (11, 12)


def workload(rng: np.random.Generator, num: int, sampled: float) -> list[SequenceRequest]:
    """Requests of random lengths; `sampled` of them are drawn, the others greedy."""
    return [
        SequenceRequest(
            key=key,
            visual_tokens=np.full((int(rng.integers(1, 4)), 2), rng.integers(0, 40), np.float32),
            prompt_ids=rng.integers(3, 50, rng.integers(0, 6)).tolist(),
            max_new_tokens=int(rng.integers(1, 26)),
            seed=int(rng.integers(0, 1000)),
            temperature=float(rng.choice([0.5, 1.0])) if rng.random() < sampled else 0.0,
            top_p=float(rng.choice([0.5, 0.9, 1.0])),
            before_ids=rng.integers(3, 50, rng.integers(0, 2)).tolist(),
            loop_repeats=int(rng.choice([0, 2, 3])),
        )
        for key in range(num)
    ]


def arriving(
    requests: Sequence[SequenceRequest], rng: np.random.Generator
) -> Iterator[SequenceRequest | None]:
    """They are not always ready."""
    for request in requests:
        while rng.random() < 0.3:
            yield None
        yield request


def run_plainly(
    requests: Sequence[SequenceRequest], stop_ids: tuple[int, ...] = ()
) -> list[Completion]:
    engine = Engine(WanderingRuntime(1, capacity=200), EOS, stop_ids, speculation="off")
    return sorted(engine.run(requests), key=lambda done: done.key)


def compare_once(seed: int) -> tuple[Counter[str], PipelinedFakeRuntime]:
    rng = np.random.default_rng(seed)
    requests = workload(rng, int(rng.integers(1, 24)), float(rng.choice([0.0, 0.5, 1.0])))
    runtime = PipelinedFakeRuntime(
        int(rng.integers(1, 9)),
        # Not one token more room than the plain loop needs.
        max(each.prompt_length + each.max_new_tokens - 1 for each in requests),
        float(rng.choice([0.0, 0.02, 0.4, 1.0])),
    )
    speculation: Speculation = "auto" if seed % 3 == 0 else "off"
    ticks = itertools.accumulate(rng.exponential(size=100_000))
    engine = Engine(
        runtime,
        EOS,
        STOP_IDS,
        speculation=speculation,
        planner=Restless(seed) if seed % 6 == 0 else None,
        max_prefill_tokens=int(rng.choice([1, 8, 1000])),
        clock=lambda: float(next(ticks)),
    )
    done = sorted(engine.run(arriving(requests, rng)), key=lambda each: each.key)
    assert done == run_plainly(requests, STOP_IDS), f"seed {seed}"
    stats = engine.stats
    assert stats.num_written_tokens == sum(each.num_tokens for each in done)
    assert stats.num_prefill_tokens == sum(each.prompt_length for each in requests)
    assert stats.num_accepted_tokens <= stats.num_drafted_tokens
    written_by_decode = stats.num_decode_tokens + stats.num_accepted_tokens
    assert stats.num_written_tokens == len(requests) + written_by_decode
    assert stats.num_steps == runtime.num_begun + runtime.num_waited_for
    return Counter(each.finish_reason for each in done), runtime


def test_captions_are_those_of_the_plain_loop() -> None:
    reasons: Counter[str] = Counter()
    ahead = read = 0
    for seed in range(150):
        found, runtime = compare_once(seed)
        reasons += found
        ahead += runtime.num_ahead
        read += runtime.num_read
    assert min(reasons[reason] for reason in ("eos", "loop", "length")) > 50
    assert ahead > 0.8 * read


def greedy(num: int, max_new_tokens: int, kind: int = 3) -> list[SequenceRequest]:
    """Captions of one kind; those of kind 3 end at the length limit alone."""
    return [
        SequenceRequest(key, np.full((3, 2), 4 * key + kind, np.float32), (5, 6), max_new_tokens)
        for key in range(num)
    ]


def test_rows_that_are_known_to_end_are_given_to_no_further_step() -> None:
    runtime = PipelinedFakeRuntime(4)
    engine = Engine(runtime, EOS, speculation="off")
    requests = greedy(14, max_new_tokens=6)
    done = sorted(engine.run(requests), key=lambda each: each.key)
    assert done == run_plainly(requests)
    assert engine.stats.num_dropped_tokens == 0
    assert runtime.sizes == [4] * 18 + [2] * 6  # as full as in the plain loop
    assert runtime.num_ahead == 23


def test_tokens_that_were_read_for_nothing_are_counted_apart() -> None:
    runtime = PipelinedFakeRuntime(3)
    engine = Engine(runtime, EOS, speculation="off")
    requests = greedy(20, max_new_tokens=20, kind=1)
    done = sorted(engine.run(requests), key=lambda each: each.key)
    ended_early = [each for each in done if each.num_tokens < 20]
    assert len(ended_early) > 10
    stats = engine.stats
    assert stats.num_dropped_tokens == len(ended_early)
    assert stats.num_written_tokens == sum(each.num_tokens for each in done)
    assert stats.tokens_per_decode == 1
    assert sum(runtime.sizes) == len(done) + stats.num_decode_tokens + stats.num_dropped_tokens


def test_a_step_that_no_caption_needs_is_not_waited_for() -> None:
    for request in greedy(10, max_new_tokens=20, kind=1):
        runtime = PipelinedFakeRuntime(2)
        (done,) = Engine(runtime, EOS, speculation="off").run([request])
        assert runtime.num_read == done.num_tokens
        assert runtime.num_begun == done.num_tokens + (done.finish_reason == "eos")


def test_where_most_tokens_are_left_to_the_host_steps_are_waited_for() -> None:
    requests = [replace(each, temperature=1.0) for each in greedy(6, max_new_tokens=120)]
    runtime = PipelinedFakeRuntime(6, capacity=200, undecided=1.0)
    engine = Engine(runtime, EOS, speculation="off")
    done = sorted(engine.run(requests), key=lambda each: each.key)
    assert done == run_plainly(requests)
    assert runtime.num_waited_for > 100
    # Pauses of 1, 3, 7, 15, 31 and 63 steps lie between.
    assert engine.stats.num_dropped_tokens == 6 * 6


def test_a_pause_is_short_again_after_tokens_that_were_drawn_on_the_device() -> None:
    def dropped(lengths: Sequence[int]) -> int:
        """Of six captions at a time, of these lengths; every other time they are drawn."""
        requests = [
            replace(each, max_new_tokens=length, temperature=float(turn % 2 == 0))
            for turn, length in enumerate(lengths)
            for each in greedy(6, length)
        ]
        runtime = PipelinedFakeRuntime(6, capacity=200, undecided=1.0)
        engine = Engine(runtime, EOS, speculation="off")
        assert len(list(engine.run(requests))) == len(requests)
        return engine.stats.num_dropped_tokens

    assert dropped([40]) == 6 * 5
    assert dropped([40, 70, 40]) == 2 * dropped([40])


def test_a_few_tokens_left_to_the_host_delay_only_their_rows() -> None:
    requests = [replace(each, temperature=1.0) for each in greedy(8, max_new_tokens=40)]
    runtime = PipelinedFakeRuntime(8, undecided=0.05)
    engine = Engine(runtime, EOS, speculation="off")
    done = sorted(engine.run(requests), key=lambda each: each.key)
    assert done == run_plainly(requests)
    assert runtime.num_waited_for < 5
    assert 5 < engine.stats.num_dropped_tokens < 40


def test_drafts_are_verified_in_steps_that_are_waited_for() -> None:
    requests = greedy(10, max_new_tokens=12)
    runtime = PipelinedFakeRuntime(3)
    engine = Engine(runtime, EOS, speculation="on")
    assert sorted(engine.run(requests), key=lambda each: each.key) == run_plainly(requests)
    assert (runtime.num_begun, engine.stats.num_dropped_tokens) == (0, 0)
    assert engine.stats.num_drafted_tokens > 0


def test_it_can_be_left_in_the_middle() -> None:
    """What was begun then is carried out before what a later engine gives the runtime."""
    requests = greedy(12, max_new_tokens=8, kind=1)
    runtime = PipelinedFakeRuntime(4)
    for _ in range(3):
        first = Engine(runtime, EOS, speculation="off").run(requests)
        next(first)
        assert isinstance(first, Generator)
        first.close()
        again = Engine(runtime, EOS, speculation="off")
        assert sorted(again.run(requests), key=lambda each: each.key) == run_plainly(requests)
    assert runtime.num_begun > runtime.num_waited_for == 0


class Interrupted(PipelinedFakeRuntime):
    """Ctrl-C comes while a step is waited for."""

    interrupt = True

    def carry_out(self, until: Callable[[], bool] = lambda: False) -> None:
        if self.interrupt and self.num_begun == 5:
            self.interrupt = False
            raise KeyboardInterrupt
        super().carry_out(until)


def test_an_interrupt_leaves_the_runtime_usable() -> None:
    requests = greedy(12, max_new_tokens=8, kind=1)
    runtime = Interrupted(4)
    with pytest.raises(KeyboardInterrupt):
        list(Engine(runtime, EOS, speculation="off").run(requests))
    again = Engine(runtime, EOS, speculation="off")
    assert sorted(again.run(requests), key=lambda each: each.key) == run_plainly(requests)


class Timed(PipelinedFakeRuntime):
    """A device that takes 4 seconds a step and more for prompts, once it has something to do."""

    def __init__(self, num_slots: int) -> None:
        super().__init__(num_slots, capacity=200)
        self.now_s = self.free_s = 0.0
        self.done_s: list[float] = []

    def begin(self, batch: StepBatch, chosen: ChosenTokens | None = None) -> PendingFake:
        self.now_s += 1  # of the host
        num_prompt_tokens = len(batch.token_ids) - len(batch.query_lengths)
        self.free_s = max(self.free_s, self.now_s) + 4 + num_prompt_tokens
        self.done_s.append(self.free_s)
        return super().begin(batch, chosen)

    def carry_out(self, until: Callable[[], bool] = lambda: False) -> None:
        self.now_s = max(self.now_s, self.done_s[self.num_read - 1])
        super().carry_out(until)


class Recording(StepCost):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[int, float]] = []

    def record_ahead(self, rows: int, seconds: float) -> None:
        self.records.append((rows, seconds))


def test_a_step_costs_the_time_between_results() -> None:
    """Without steps that read prompts, and without the time of whoever takes captions or brings
    requests, of which one a step is admitted here."""
    planner = DraftPlanner()
    planner.cost = cost = Recording()
    planner.wants_drafts = lambda mode, rows: False  # type: ignore[method-assign]
    runtime = Timed(3)
    engine = Engine(
        runtime,
        EOS,
        speculation="auto",
        planner=planner,
        max_prefill_tokens=1,
        clock=lambda: runtime.now_s,
    )

    def slowly() -> Iterator[SequenceRequest]:
        for each in greedy(9, max_new_tokens=10):
            runtime.now_s += 1000
            yield replace(each, max_new_tokens=10 + each.key)

    for _ in engine.run(slowly()):
        runtime.now_s += 1000
    assert len(cost.records) > 15
    for rows, seconds in cost.records:
        assert 1 <= rows <= 3
        assert seconds == 4


class Plain(FakeRuntime):
    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        assert (batch.sampling is not None) == want_logits
        return super().step(batch, want_logits)


def test_a_runtime_that_cannot_begin_steps_is_given_the_plain_ones() -> None:
    engine = Engine(Plain(3), EOS, speculation="off")
    assert len(list(engine.run(greedy(5, max_new_tokens=4)))) == 5
    assert engine.stats.num_dropped_tokens == 0


if __name__ == "__main__":  # python -m tests.generation.test_pipeline 100000
    for number in range(int(sys.argv[1])):
        compare_once(number)
