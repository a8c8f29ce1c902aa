"""Captions given beforehand, written by a runtime that would have written others."""

from __future__ import annotations

import random

import numpy as np
import pytest
from forced import ForcedRuntime

from altogether_rt.generation.engine import Engine, EngineStats, SequenceRequest
from altogether_rt.speculation.planner import Speculation
from tests.generation.fake_runtime import EOS, VOCAB, FakeRuntime
from tests.generation.pipelined_runtime import PipelinedFakeRuntime


def pairs(num: int) -> list[tuple[SequenceRequest, list[int]]]:
    """Alt-texts, and captions that copy some of them."""
    rng = random.Random(3)
    made = []
    for key in range(num):
        alt = [rng.randrange(3, VOCAB) for _ in range(rng.randrange(1, 9))]
        new = [rng.randrange(3, VOCAB) for _ in range(rng.randrange(4))]
        caption = [*new, *alt, *alt[:2], EOS]
        visual = np.full((3, 2), float(key), np.float32)
        made.append((SequenceRequest(key, visual, alt, len(caption), alt_ids=alt), caption))
    return made


def write(
    speculation: Speculation, num_slots: int, stats: EngineStats
) -> tuple[dict[int, tuple[int, ...]], FakeRuntime]:
    inner = FakeRuntime(num_slots)
    forced = ForcedRuntime(inner)
    engine = Engine(forced, EOS, speculation=speculation, stats=stats)
    return {done.key: done.ids for done in engine.run(forced.announce(pairs(23)))}, inner


@pytest.mark.parametrize("speculation", ["off", "on", "auto"])
@pytest.mark.parametrize("num_slots", [1, 4, 16])
def test_the_given_captions_are_written(speculation: Speculation, num_slots: int) -> None:
    written, _ = write(speculation, num_slots, EngineStats())
    assert written == {work.key: tuple(caption[:-1]) for work, caption in pairs(23)}


def test_drafts_are_accepted_where_the_caption_copies() -> None:
    off, on = EngineStats(), EngineStats()
    _, plain = write("off", 4, off)
    _, verifying = write("on", 4, on)
    assert off.num_accepted_tokens == 0
    assert 0 < on.num_accepted_tokens < on.num_drafted_tokens
    # Every step is computed: the inner runtime has read what the engine counted.
    for runtime, stats in ((plain, off), (verifying, on)):
        read = stats.num_prefill_tokens + stats.num_decode_tokens + stats.num_drafted_tokens
        assert runtime.num_tokens == read


def test_steps_are_not_begun_ahead() -> None:
    """The runtime's own choices would be taken on its device."""
    inner = PipelinedFakeRuntime(4)
    forced = ForcedRuntime(inner)
    written = {
        done.key: done.ids
        for done in Engine(forced, EOS, speculation="off").run(forced.announce(pairs(23)))
    }
    assert written == {work.key: tuple(caption[:-1]) for work, caption in pairs(23)}
    assert inner.num_begun == 0
