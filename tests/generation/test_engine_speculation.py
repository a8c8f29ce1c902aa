"""Speculation changes the number of steps and not one token."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from altogether_rt.generation.engine import Completion, Engine, SequenceRequest
from altogether_rt.runtime.base import StepBatch, StepResult
from altogether_rt.speculation.planner import DraftPlanner, Speculation
from tests.generation.fake_runtime import (
    EOS,
    SEPARATOR,
    VOCAB,
    CopyingRuntime,
    FakeRuntime,
    edited,
)
from tests.generation.restless import Restless

pytestmark = pytest.mark.lean


def _work(num: int, temperature: float = 0.0, max_new_tokens: int = 22) -> list[SequenceRequest]:
    rng = np.random.default_rng(8)
    work = []
    for key in range(num):
        alt = rng.integers(3, VOCAB, rng.integers(0, 25)).tolist()
        work.append(
            SequenceRequest(
                key=key,
                visual_tokens=np.full((3, 2), key % 7, np.float32),
                prompt_ids=[*alt, SEPARATOR],
                max_new_tokens=max_new_tokens,
                seed=key,
                temperature=temperature,
                top_p=0.95,
                alt_ids=alt,
            )
        )
    return work


def _write(
    work: list[SequenceRequest],
    speculation: Speculation,
    num_slots: int,
    runtime_class: type[FakeRuntime] = CopyingRuntime,
    stop_ids: tuple[int, ...] = (),
    planner: DraftPlanner | None = None,
) -> tuple[list[Completion], Engine]:
    # Not one token more room than plain decoding needs.
    capacity = max(w.prompt_length + w.max_new_tokens - 1 for w in work)
    engine = Engine(
        runtime_class(num_slots, capacity=capacity),
        EOS,
        stop_ids,
        speculation=speculation,
        planner=planner,
        clock=lambda: 0.0,  # no measurements: lengths are the same in every run of the test
    )
    return sorted(engine.run(work), key=lambda c: c.key), engine


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_tokens_are_those_of_plain_decoding(temperature: float) -> None:
    work = _work(1000, temperature)
    plain, engine = _write(work, "off", 16)
    assert engine.stats.num_drafted_tokens == 0
    assert {c.finish_reason for c in plain} == {"eos", "length"}
    for num_slots, planner in ((1, None), (7, Restless(1)), (16, None)):
        found, engine = _write(work, "on", num_slots, planner=planner)
        assert found == plain
        assert engine.stats.num_accepted_tokens > (200 if planner else 1000)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("num_slots", [1, 3, 8])
def test_drafts_that_are_nearly_always_wrong_do_no_harm(num_slots: int, temperature: float) -> None:
    """Every step takes back its draft."""
    work = _work(150, temperature, max_new_tokens=20)
    plain, _ = _write(work, "off", num_slots, FakeRuntime)
    found, engine = _write(work, "on", num_slots, FakeRuntime, planner=Restless(num_slots))
    assert found == plain
    assert engine.stats.num_drafted_tokens > 1000
    assert engine.stats.acceptance is not None
    assert engine.stats.acceptance < 0.1


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_auto_gives_the_same_captions(temperature: float) -> None:
    work = _work(100, temperature)
    plain, _ = _write(work, "off", 4)
    for num_slots in (1, 4):
        found, engine = _write(work, "auto", num_slots)
        assert found == plain
        assert engine.stats.num_drafted_tokens > 0


def test_a_clock_changes_no_token() -> None:
    work = _work(60, 0.7)
    rng = np.random.default_rng(0)
    ticks = itertools.accumulate(rng.exponential(size=100_000))
    engine = Engine(CopyingRuntime(5), EOS, speculation="auto", clock=lambda: float(next(ticks)))
    assert sorted(engine.run(work), key=lambda c: c.key) == _write(work, "off", 5)[0]


@pytest.mark.parametrize("max_new_tokens", [1, 2, 3, 7])
def test_the_length_limit_holds_within_a_verified_run(max_new_tokens: int) -> None:
    work = _work(60, max_new_tokens=max_new_tokens)
    plain, _ = _write(work, "off", 4)
    found, _ = _write(work, "on", 4, planner=Restless(0))
    assert found == plain
    assert max(c.num_tokens for c in found) == max_new_tokens


def test_end_and_stop_tokens_hold_within_a_verified_run() -> None:
    """The alt-text contains the stop token and EOS, so that these are drafted, and more after."""
    alt = [10, 11, 12, 13, 14, 15, 16, 17]
    work = [
        dataclasses.replace(w, alt_ids=[*alt, *caption])
        for w in _work(40)
        for caption in [[*edited(list(w.alt_ids)), 20, 21]]
    ]
    stop_ids = (7, 8, 9)
    plain, _ = _write(work, "off", 3, stop_ids=stop_ids)
    found, engine = _write(work, "on", 3, stop_ids=stop_ids)
    assert found == plain
    assert any(c.ids and c.ids[-1] in stop_ids for c in found)
    assert engine.stats.num_accepted_tokens > engine.stats.num_decode_tokens


@pytest.mark.parametrize("mode", ["on", "auto"])
def test_copied_captions_take_fewer_steps(mode: Speculation) -> None:
    work = [w for w in _work(80) if len(w.alt_ids) > 10]
    _, plain = _write(work, "off", 1)
    _, engine = _write(work, mode, 1)
    assert plain.stats.num_written_tokens == engine.stats.num_written_tokens
    assert engine.stats.num_steps < 0.5 * plain.stats.num_steps
    assert engine.stats.acceptance is not None
    assert engine.stats.acceptance > 0.4
    assert engine.stats.tokens_per_decode is not None
    assert engine.stats.tokens_per_decode > 2


def test_counts_add_up() -> None:
    class Counting(CopyingRuntime):
        calls = asked = verifying = 0

        def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
            Counting.calls += 1
            Counting.asked += len(batch.logit_index)
            # one position of each row, and one of each draft token; often of some rows only
            Counting.verifying += len(batch.logit_index) > len(batch.query_lengths)
            return super().step(batch, want_logits)

    work = _work(30)
    done, engine = _write(work, "on", 4, Counting)
    stats = engine.stats
    assert stats.num_steps == Counting.calls
    assert 0 < stats.num_verify_steps == Counting.verifying <= stats.num_steps
    assert stats.num_written_tokens == sum(c.num_tokens for c in done)
    written_by_decode = stats.num_decode_tokens + stats.num_accepted_tokens
    assert stats.num_written_tokens == len(work) + written_by_decode
    assert Counting.asked == len(work) + stats.num_decode_tokens + stats.num_drafted_tokens
    assert stats.num_prefill_tokens == sum(w.prompt_length for w in work)


def test_the_cost_of_a_step_is_learnt_where_no_row_reads_its_prompt() -> None:
    """Of steps in which one of several rows does, neither."""
    planner, recorded = DraftPlanner(), []
    planner.cost.record = lambda rows, tokens, seconds: recorded.append(rows)  # type: ignore[method-assign]
    runtime = CopyingRuntime(4, capacity=80)
    engine = Engine(runtime, EOS, speculation="on", planner=planner, clock=lambda: 0.0)
    list(engine.run(_work(30)))
    steps = list(zip(runtime.batch_sizes, runtime.num_prompts, strict=True))
    assert any(0 < prompts < rows for rows, prompts in steps)
    assert recorded == [rows for rows, prompts in steps if not prompts]


def test_without_drafts_there_is_nothing_to_count() -> None:
    stats = Engine(FakeRuntime(1), EOS).stats
    assert stats.acceptance is None
    assert stats.tokens_per_decode is None


def test_what_was_learnt_goes_on_to_the_next_engine() -> None:
    """The same captions again: their n-grams are known."""
    planner, work = DraftPlanner(), _work(40)
    first = _write(work, "on", 1, planner=planner)[1].stats.num_steps
    again = _write(work, "on", 1, planner=planner)[1].stats.num_steps
    assert again < 0.75 * first


def test_acceptance_and_images_are_learnt_from() -> None:
    """Draft tokens are judged up to the first wrong one; whole captions go with their images."""
    planner, work = DraftPlanner(), _work(40)
    pictures = np.random.default_rng(1).normal(size=(40, 5)).astype(np.float32)
    work = [
        dataclasses.replace(each, embedding=row.copy)
        for each, row in zip(work, pictures, strict=True)
    ]
    done, engine = _write(work, "on", 1, planner=planner)
    right, judged = planner.acceptance.to_arrays()["rates"]
    assert right.sum() > 0.1 * engine.stats.num_accepted_tokens
    assert right.sum() < judged.sum() <= engine.stats.num_drafted_tokens + 40
    assert planner.picture_prior.to_arrays()["num"] == len(done) == 40


def test_prompts_bring_drafts_too() -> None:
    """All captions begin alike: once that is known, the first step writes more than one token."""

    class Opening(FakeRuntime):
        def next_logits(self, sequence: list[int]) -> NDArray[np.float32]:
            logits = np.zeros(VOCAB, np.float32)
            written = len(sequence) - sequence.index(SEPARATOR) - 1
            logits[(7, 8, 9, EOS)[min(written, 3)]] = 1
            return logits

    work = _work(20)
    plain, _ = _write(work, "off", 1, Opening)
    found, engine = _write(work, "on", 1, Opening)
    assert found == plain
    assert engine.stats.num_first_tokens > 2 * len(work)
    assert engine.stats.num_steps < 2 * len(work)
