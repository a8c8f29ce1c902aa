"""The engine writes what a plain loop over one row at a time would write."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from altogether_rt.generation.engine import Completion, Engine, EngineStats, SequenceRequest
from altogether_rt.generation.sampling import row_uniforms, sample_top_p
from altogether_rt.runtime.base import StepBatch, StepRow
from tests.generation.fake_runtime import EOS, FakeRuntime


def _work(num: int, temperature: float = 0.0, max_new_tokens: int = 20) -> list[SequenceRequest]:
    rng = np.random.default_rng(5)
    return [
        SequenceRequest(
            key=key,
            visual_tokens=np.full((3, 2), key % 7, np.float32),
            prompt_ids=rng.integers(3, 50, rng.integers(0, 12)).tolist(),
            max_new_tokens=max_new_tokens,
            seed=key,
            temperature=temperature,
            top_p=0.9,
        )
        for key in range(num)
    ]


def _one_by_one(work: SequenceRequest, stop_ids: tuple[int, ...] = ()) -> Completion:
    """The slow twin: the whole sequence again for every token."""
    uniforms = row_uniforms(work.seed, work.max_new_tokens)
    ids: list[int] = []
    while True:
        result = FakeRuntime(1).step(
            StepBatch.from_rows([StepRow([*work.prompt_ids, *ids], 0, work.visual_tokens)], 2),
            want_logits=True,
        )
        token = int(result.greedy_ids[0])
        if work.temperature:
            assert result.logits is not None
            token = sample_top_p(result.logits[0], uniforms[len(ids)], work.temperature, work.top_p)
        ids.append(token)
        if token == EOS:
            return Completion(work.key, tuple(ids[:-1]), len(ids), "eos")
        if token in stop_ids:
            return Completion(work.key, tuple(ids), len(ids), "eos")
        if len(ids) == work.max_new_tokens:
            return Completion(work.key, tuple(ids), len(ids), "length")


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("num_slots", [1, 3, 8, 64])
def test_same_captions_for_any_number_of_slots(num_slots: int, temperature: float) -> None:
    work = _work(40, temperature)
    done = list(Engine(FakeRuntime(num_slots), EOS).run(work))
    assert sorted(done, key=lambda c: c.key) == [_one_by_one(w) for w in work]
    assert {c.finish_reason for c in done} == {"eos", "length"}


def test_admission_budget_changes_nothing_but_the_steps() -> None:
    work = _work(30)
    wide = Engine(FakeRuntime(8), EOS)
    narrow = Engine(FakeRuntime(8), EOS, max_prefill_tokens=1)
    by_key = [sorted(e.run(work), key=lambda c: c.key) for e in (wide, narrow)]
    assert by_key[0] == by_key[1]
    assert narrow.stats.num_prefill_tokens == wide.stats.num_prefill_tokens


def test_prompts_are_admitted_until_the_budget_is_used_up() -> None:
    """Prompts of 5 tokens: after two of them 8 are used up, and the third waits for a step."""
    runtime = FakeRuntime(8)
    work = [
        SequenceRequest(key, np.zeros((3, 2), np.float32), [4, 5 + key], max_new_tokens=9)
        for key in range(5)
    ]
    list(Engine(runtime, EOS, max_prefill_tokens=8).run(work))
    assert runtime.num_prompts[:4] == [2, 2, 1, 0]


def test_slots_are_refilled_at_once() -> None:
    runtime = FakeRuntime(4)
    list(Engine(runtime, EOS).run(_work(40)))
    sizes = runtime.batch_sizes
    last_full = max(i for i, size in enumerate(sizes) if size == 4)
    assert set(sizes[: last_full + 1]) == {4}, "a slot stayed empty while work was waiting"
    assert sizes[last_full:] == sorted(sizes[last_full:], reverse=True)


def test_stop_tokens_end_a_caption_and_stay_in_it() -> None:
    work = _work(20)
    stop_ids = (7, 8, 9, 10, 11)
    done = sorted(Engine(FakeRuntime(4), EOS, stop_ids).run(work), key=lambda c: c.key)
    assert done == [_one_by_one(w, stop_ids) for w in work]
    assert any(c.ids and c.ids[-1] in stop_ids for c in done)


def test_work_is_drawn_only_as_slots_become_free() -> None:
    drawn = 0

    def source() -> object:
        nonlocal drawn
        for work in _work(50):
            drawn += 1
            yield work

    completions = Engine(FakeRuntime(4), EOS).run(source())  # type: ignore[arg-type]
    next(completions)
    assert drawn < 16


def test_rows_go_on_while_no_work_is_ready() -> None:
    runtime = FakeRuntime(4)
    steps_when_drawn: list[int] = []

    def source() -> Iterator[SequenceRequest | None]:
        for index, work in enumerate(_work(6)):
            if index % 2:
                yield from [None] * 3
            steps_when_drawn.append(len(runtime.batch_sizes))
            yield work

    done = list(Engine(runtime, EOS).run(source()))
    assert sorted(done, key=lambda c: c.key) == [_one_by_one(w) for w in _work(6)]
    assert steps_when_drawn[1] == 3, "a step for every time that nothing was ready"


def test_counts_of_several_engines_add_up() -> None:
    total = EngineStats(num_steps=1, decoder_s=0.5)
    total.add(EngineStats(num_steps=2, num_written_tokens=3, decoder_s=0.25))
    assert total == EngineStats(num_steps=3, num_written_tokens=3, decoder_s=0.75)


def test_nothing_to_do_is_nothing_done() -> None:
    assert list(Engine(FakeRuntime(2), EOS).run([])) == []


def test_work_that_does_not_fit_is_refused() -> None:
    work = [SequenceRequest(0, np.zeros((3, 2), np.float32), [4, 5], max_new_tokens=7)]
    # 5 tokens and 7 more, of which the last is never read
    assert len(list(Engine(FakeRuntime(2, capacity=11), EOS).run(work))) == 1
    with pytest.raises(AssertionError, match="do not fit"):
        list(Engine(FakeRuntime(2, capacity=10), EOS).run(work))
