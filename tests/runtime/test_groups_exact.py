"""A decoder in 4 bits, in small and in large groups: one caption is the same in any company.

Kernels of large groups give a row at the end of an odd number other bits (AVX512-VNNI), so a call
has tokens that nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import altogether_rt.runtime.cpu.runtime as cpu_runtime
from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.generation.engine import Completion, Engine, SequenceRequest
from altogether_rt.runtime.cpu.runtime import OnnxRuntime
from altogether_rt.speculation.planner import DraftPlanner, Speculation
from tests.generation.restless import Restless
from tests.runtime.rows import Row, run_step
from tests.tiny import VOCAB_SIZE, tiny_config, tiny_samples, tiny_source

BundleIn = Callable[[int], Bundle]
WIDTH = 256
RNG = np.random.default_rng(0)
VISUAL = RNG.normal(size=(3, 4, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def bundle_in(tmp_path_factory: pytest.TempPathFactory) -> BundleIn:
    """bundle_in(group): a decoder of width 256 with weights in groups of so many channels."""
    from altogether_rt.export.bundling import write_bundle
    from altogether_rt.export.recipes import STAGES, Threshold, find_recipe
    from tests.tiny import tiny_encoder_traced_once

    made: dict[int, Bundle] = {}

    def bundle(group: int) -> Bundle:
        if group not in made:
            config = tiny_config("opt")
            config = replace(config, decoder=replace(config.decoder, width=WIDTH, ffn_width=384))
            folder: Path = tmp_path_factory.mktemp("groups")
            recipe = find_recipe("cpu-int4")
            recipe = replace(
                recipe,
                lowering=replace(recipe.lowering, group=group, keep_budget=0.0),
                parity={stage: Threshold(-1, -1) for stage in STAGES},
            )
            source = tiny_source(config, folder)
            with tiny_encoder_traced_once():
                made[group] = write_bundle(source, recipe, folder / "b", tiny_samples())
        return made[group]

    return bundle


@pytest.mark.parametrize("group", [32, 128, 256])
def test_a_row_does_not_feel_its_neighbours(group: int, bundle_in: BundleIn) -> None:
    """Bit for bit: odd and even numbers of tokens, alone, beside others, verified together."""
    with OnnxRuntime(bundle_in(group), threads=2, num_slots=3) as runtime:
        tokens = [9, 10, 11, 12, 13]
        for prompt in ([5, 6, 7], [5, 6, 7, 8]):
            row = Row()
            alone = run_step(runtime, [row.bring(prompt, VISUAL[0])])
            alone += [run_step(runtime, [row.bring([token])])[0] for token in tokens]
            for others in (1, 2):
                row, beside = Row(), [Row() for _ in range(others)]
                steps = [(prompt, VISUAL[0]), (tokens[:2], None), (tokens[2:], None)]
                found = []
                for ids, visual in steps:
                    brought = [
                        other.bring([20 + index, *ids[1:]], None if visual is None else VISUAL[1])
                        for index, other in enumerate(beside)
                    ]
                    found.append(run_step(runtime, [*brought, row.bring(ids, visual)])[-1])
                np.testing.assert_array_equal(np.concatenate(alone), np.concatenate(found))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_speculation_gives_identical_ids(temperature: float, bundle_in: BundleIn) -> None:
    def write(
        slots: int, work: list[SequenceRequest], speculation: Speculation, planner: DraftPlanner
    ) -> tuple[list[Completion], int]:
        with OnnxRuntime(bundle_in(128), threads=1, num_slots=slots) as runtime:
            engine = Engine(runtime, eos_id=2, speculation=speculation, planner=planner)
            done = sorted(engine.run(work), key=lambda c: c.key)
            return done, engine.stats.num_accepted_tokens

    rng = np.random.default_rng(1)
    visual = rng.normal(size=(12, 4, WIDTH)).astype(np.float32)
    prompts = [rng.integers(3, VOCAB_SIZE, size).tolist() for size in rng.integers(0, 11, 12)]
    work = [
        SequenceRequest(key, visual[key], prompt, 20, key, temperature, 0.9, prompt)
        for key, prompt in enumerate(prompts)
    ]
    plain, _ = write(5, work, "off", DraftPlanner())
    # Random weights copy nothing: draft from the captions themselves, with errors put in.
    known = {c.key: [t if rng.random() < 0.9 else 5 for t in c.ids] for c in plain}
    work = [
        SequenceRequest(key, visual[key], prompt, 20, key, temperature, 0.9, known[key])
        for key, prompt in enumerate(prompts)
    ]
    found, accepted = write(4, work, "on", Restless())
    assert accepted > 30
    assert found == plain
    assert write(1, work, "on", Restless())[0] == plain
    assert write(1, work, "off", DraftPlanner())[0] == plain


@pytest.mark.parametrize("multiple", [2, 16])
def test_tokens_that_nobody_reads_change_nothing(
    multiple: int, bundle_in: BundleIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a bundle that does not need them: the same logits, and the same cache to the byte."""

    def speak(row_multiple: int) -> tuple[np.ndarray, bytes]:
        monkeypatch.setattr(cpu_runtime, "row_multiple", lambda group: row_multiple)
        with OnnxRuntime(bundle_in(32), threads=1, num_slots=2) as runtime:
            first, second = Row(), Row()
            steps = [
                [first.bring([5, 6, 7], VISUAL[0]), second.bring([5], VISUAL[1])],
                [first.bring([8]), second.bring([])],
                [first.bring([9, 10]), second.bring([8])],
            ]
            logits = [run_step(runtime, step) for step in steps]
            cache = [
                runtime._cache.view(layer, part, 2).tobytes()
                for layer in range(2)
                for part in range(2)
            ]
        return np.concatenate([part for step in logits for part in step]), b"".join(cache)

    wanted, found = speak(1), speak(multiple)
    np.testing.assert_array_equal(wanted[0], found[0])
    assert wanted[1] == found[1]


def test_a_bundle_from_before_groups_had_a_choice(bundle_in: BundleIn) -> None:
    """Its manifest has no group: its groups have 32, its id is the same, it runs as it did."""
    bundle = bundle_in(32)
    data = bundle.manifest.to_dict()
    assert data["target"].pop("group") == 32
    old = type(bundle.manifest).from_dict(data)
    assert old.target.weight_group == 32
    assert old.bundle_id == bundle.bundle_id
    with OnnxRuntime(Bundle(bundle.path, old), threads=1, num_slots=1) as runtime:
        found = run_step(runtime, [Row().bring([5, 6], VISUAL[0])])[0]
    with OnnxRuntime(bundle, threads=1, num_slots=1) as runtime:
        wanted = run_step(runtime, [Row().bring([5, 6], VISUAL[0])])[0]
    np.testing.assert_array_equal(wanted, found)


def test_the_manifest_says_which_groups_and_others_say_nothing(bundle_in: BundleIn) -> None:
    assert bundle_in(128).manifest.to_dict()["target"]["group"] == 128
    assert bundle_in(128).manifest.target.weight_group == 128
    assert "group" not in Bundle.load("starter").manifest.to_dict()["target"]
    assert Bundle.load("starter").manifest.target.weight_group == 0
