"""Speculation on a real int8 graph: the same ids, greedy and sampled."""

from __future__ import annotations

import numpy as np
import pytest

from altogether_rt.generation.engine import Completion, Engine, SequenceRequest
from altogether_rt.runtime.cpu.runtime import OnnxRuntime
from altogether_rt.speculation.planner import DraftPlanner, Speculation
from tests.generation.restless import Restless
from tests.runtime.conftest import BundleOf
from tests.tiny import FAMILIES, VOCAB_SIZE


def _write(
    runtime: OnnxRuntime,
    work: list[SequenceRequest],
    speculation: Speculation,
    planner: DraftPlanner,
) -> tuple[list[Completion], Engine]:
    engine = Engine(runtime, eos_id=2, speculation=speculation, planner=planner)
    return sorted(engine.run(work), key=lambda c: c.key), engine


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("family", FAMILIES)
def test_speculation_gives_identical_ids(
    family: str, temperature: float, bundle_of: BundleOf
) -> None:
    rng = np.random.default_rng(0)

    def work(runtime: OnnxRuntime, num: int) -> list[SequenceRequest]:
        visual = rng.normal(size=(num, 4, runtime.token_width)).astype(np.float32)
        prompts = [rng.integers(3, VOCAB_SIZE, size).tolist() for size in lengths]
        return [
            SequenceRequest(key, visual[key], prompts[key], 20, key, temperature, 0.9, prompts[key])
            for key in range(num)
        ]

    lengths = rng.integers(0, 11, 24)
    bundle = bundle_of(family, "cpu-int8")
    with OnnxRuntime(bundle, threads=1, num_slots=5) as runtime:
        items = work(runtime, len(lengths))
        plain, _ = _write(runtime, items, "off", DraftPlanner())
        # Random weights copy nothing: draft from the captions themselves, with errors put in.
        known = {c.key: [t if rng.random() < 0.9 else 5 for t in c.ids] for c in plain}
        items = [
            SequenceRequest(
                w.key, w.visual_tokens, w.prompt_ids, 20, w.key, temperature, 0.9, known[w.key]
            )
            for w in items
        ]
        found, engine = _write(runtime, items, "on", Restless())
        assert found == plain
        assert engine.stats.num_accepted_tokens > 50
        assert engine.stats.num_drafted_tokens > engine.stats.num_accepted_tokens
    with OnnxRuntime(bundle, threads=1, num_slots=1) as runtime:
        alone, engine = _write(runtime, items[:6], "auto", DraftPlanner())
        assert alone == plain[:6]
        assert engine.stats.num_drafted_tokens > 0
