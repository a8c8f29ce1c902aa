"""A caption that repeats itself ends, and keeps the passage once, however it is made."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from numpy.typing import NDArray

from altogether_rt.generation.engine import Completion, Engine, SequenceRequest
from altogether_rt.generation.loops import MAX_PASSAGE_TOKENS, MIN_LOOP_TOKENS, without_loop
from altogether_rt.speculation.planner import DraftPlanner, Speculation
from tests.generation.fake_runtime import EOS, SEPARATOR, VOCAB, FakeRuntime
from tests.generation.restless import Restless

pytestmark = pytest.mark.lean


@pytest.mark.parametrize(
    ("ids", "repeats", "kept"),
    [
        ([9, 8, *[1, 2, 3, 4, 5] * 3], 3, 7),  # 2 tokens before, and the passage of 5 once
        ([9, 8, *[1, 2, 3, 4, 5] * 3, 1], 3, 8),  # [2, 3, 4, 5, 1] is the passage by then
        ([9, 8, *[1, 2, 3, 4, 5] * 3, 7], 3, None),  # it went on otherwise
        ([9, 8, *[1, 2, 3, 4, 5] * 2], 3, None),
        ([9, 8, *[1, 2, 3, 4, 5] * 2], 2, None),  # 10 tokens in all are too few
        ([9, 8, *[1, 2, 3, 4, 5, 6] * 2], 2, 8),
        ([1, 2, 3, 4] * 3, 3, 4),
        ([5, *[1] * 11], 3, None),
        ([5, *[1] * 12], 3, 2),  # not [1, 1, 1, 1] three times: the shortest passage counts
        ([5, *[1] * 12], 12, 2),
        ([5, *[1, 2] * 6], 3, 3),
        ([1, 2, 3, 4] * 3, 0, None),
        ([], 3, None),
    ],
)
def test_loops_by_hand(ids: list[int], repeats: int, kept: int | None) -> None:
    assert without_loop(ids, repeats) == kept


def test_loops_are_those_of_the_definition() -> None:
    """Every passage at the end of random tokens of a small alphabet, counted without any trick."""
    rng = random.Random(3)
    found = 0
    for _ in range(3000):
        passage = [rng.randrange(3) for _ in range(rng.randrange(1, 9))]
        ids = [rng.randrange(3) for _ in range(rng.randrange(6))] + passage * rng.randrange(1, 7)
        ids += passage[: rng.randrange(len(passage))]
        repeats = rng.randrange(2, 6)
        assert without_loop(ids, repeats) == slowly(ids, repeats)
        found += without_loop(ids, repeats) is not None
    assert 500 < found < 2500
    long = list(range(MAX_PASSAGE_TOKENS + 1))
    assert without_loop(long[:-1] * 2, 2) == MAX_PASSAGE_TOKENS
    assert without_loop(long * 2, 2) is None


def slowly(ids: list[int], repeats: int) -> int | None:
    for size in range(1, MAX_PASSAGE_TOKENS + 1):
        passage, times = ids[-size:], 0
        while times < len(ids) // size and ids[len(ids) - (times + 1) * size :][:size] == passage:
            times += 1
            if times >= repeats and times * size >= MIN_LOOP_TOKENS:
                return len(ids) - times * size + size
    return None


class Stammering(FakeRuntime):
    """Some captions come to an end, most fall into a loop of a length that the prompt decides."""

    def next_logits(self, sequence: list[int]) -> NDArray[np.float32]:
        end = sequence.index(SEPARATOR)
        written, key = sequence[end + 1 :], sequence[3]
        logits = np.random.default_rng(sequence).normal(size=VOCAB).astype(np.float32)
        size = key % 10
        if size and len(written) >= 5 + size:
            logits[written[-size]] += 20  # the probability of any other token is nothing
        elif not size and len(written) > 8:
            logits[EOS] += 20
        return logits


def requests(loop_repeats: int, temperature: float) -> list[SequenceRequest]:
    return [
        SequenceRequest(
            key=key,
            visual_tokens=np.full((3, 2), key % 7, np.float32),
            prompt_ids=[3 + key % 40, SEPARATOR],
            max_new_tokens=50,
            seed=key,
            temperature=temperature,
            top_p=0.9,
            alt_ids=[3 + key % 40],
            loop_repeats=loop_repeats,
        )
        for key in range(60)
    ]


def write(
    loop_repeats: int,
    temperature: float,
    speculation: Speculation = "off",
    num_slots: int = 1,
    planner: DraftPlanner | None = None,
) -> list[Completion]:
    engine = Engine(
        Stammering(num_slots), EOS, speculation=speculation, planner=planner, clock=lambda: 0.0
    )
    done = sorted(engine.run(requests(loop_repeats, temperature)), key=lambda c: c.key)
    if speculation == "on":
        assert engine.stats.num_accepted_tokens > 100
    return done


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_speculation_and_batches_change_no_loop(temperature: float) -> None:
    plain = write(3, temperature)
    assert {c.finish_reason for c in plain} == {"eos", "loop"}
    for num_slots, planner in itertools.product((1, 7, 16), (None, Restless(2))):
        assert write(3, temperature, "on", num_slots, planner) == plain
    assert write(3, temperature, "auto", 5) == plain


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_loop_is_cut_and_the_rest_is_as_it_was(temperature: float) -> None:
    """Without a limit the same captions go on to their longest length, with the same beginning."""
    for endless, ended in zip(write(0, temperature), write(3, temperature), strict=True):
        assert endless.ids[: len(ended.ids)] == ended.ids
        if ended.finish_reason == "eos":
            assert endless == ended
            continue
        assert endless.finish_reason == "length"
        size = requests(0, 0)[ended.key].prompt_ids[0] % 10
        # 5 tokens, the passage, and its repeats: 3 in all, and as many as make 12 tokens. By
        # chance the tokens before may belong to the loop already, or the passage itself repeat.
        assert len(ended.ids) <= 5 + size
        assert ended.num_tokens <= 5 + size * max(3, -(-12 // size))
    typical = [c for c in write(3, 0.0) if len(c.ids) == 5 + 7 and c.num_tokens == 5 + 3 * 7]
    assert typical
