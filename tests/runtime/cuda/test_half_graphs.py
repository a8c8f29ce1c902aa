"""The float16 graphs, run by onnxruntime, against torch in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from altogether_rt.runtime.cpu.runtime import OnnxRuntime
from altogether_rt.runtime.torch.runtime import TorchRuntime
from tests.runtime.conftest import BundleOf
from tests.runtime.cpu.test_runtime import VISUAL, history
from tests.runtime.rows import Row, run_step
from tests.tiny import tiny_config, tiny_model

FAMILIES = ("opt", "opt-350m", "gpt2", "llama")
TARGET = "tensorrt-fp16"


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    product: np.ndarray = (a * b).sum(-1)
    return product / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_steps_agree_with_torch(family: str, bundle_of: BundleOf) -> None:
    """Prefill of unequal rows, decode, drafts, a new row among old ones, an idle row."""
    with (
        OnnxRuntime(bundle_of(family, TARGET), threads=1, num_slots=3) as half,
        TorchRuntime(tiny_model(tiny_config(family)), num_slots=3) as reference,
    ):
        visual = VISUAL[:, :, : half.token_width]
        for found, wanted in zip(history(half, visual), history(reference, visual), strict=True):
            assert cosines(found, wanted).min() > 0.99999
            assert np.abs(found - wanted).max() < 0.01 * np.abs(wanted).max()


def test_fewer_key_heads_than_query_heads(tmp_path: Path) -> None:
    from altogether_rt.export.bundling import write_bundle
    from altogether_rt.export.recipes import find_recipe
    from tests.tiny import tiny_encoder_traced_once, tiny_samples, tiny_source

    config = tiny_config()
    config = replace(config, decoder=replace(config.decoder, kv_heads=2))
    with tiny_encoder_traced_once():
        source = tiny_source(config, tmp_path)
        bundle = write_bundle(source, find_recipe(TARGET), tmp_path / "b", tiny_samples())
    assert bundle.manifest.parity["step"]["worst_cosine"] > 0.99999


def test_a_slot_keeps_nothing_of_who_was_there(bundle_of: BundleOf) -> None:
    """Padding and rejected drafts are overwritten before anything sees them."""
    with OnnxRuntime(bundle_of("opt", TARGET), threads=1, num_slots=2) as runtime:

        def caption() -> list[np.ndarray]:
            row, beside = Row(), Row()
            steps = [
                [row.bring([5, 6], VISUAL[0]), beside.bring(range(20, 30), VISUAL[1])],
                [row.bring([9]), beside.bring([40, 41, 42, 43])],
                [row.bring([10, 11]), beside.bring([])],
            ]
            return [np.concatenate(run_step(runtime, step)) for step in steps]

        fresh = caption()
        run_step(runtime, [Row().bring(range(50, 64)), Row().bring(range(60, 74))])
        for first, second in zip(fresh, caption(), strict=True):
            assert np.array_equal(first, second)


def test_verifying_drafts_is_decoding(bundle_of: BundleOf) -> None:
    tokens = [9, 10, 11, 12, 13]
    with OnnxRuntime(bundle_of("opt", TARGET), threads=1, num_slots=1) as runtime:
        row = Row()
        run_step(runtime, [row.bring([5], VISUAL[0])])
        singly = np.concatenate([run_step(runtime, [row.bring([token])])[0] for token in tokens])
        row.past -= len(tokens)
        together = run_step(runtime, [row.bring(tokens)])[0]
    np.testing.assert_allclose(singly, together, atol=0.01 * np.abs(singly).max())


def test_a_slot_can_be_filled_to_the_last_token(bundle_of: BundleOf) -> None:
    """With the longest chunk beside it, whose padding is written behind the full slot."""
    bundle = bundle_of("opt", TARGET)
    with (
        OnnxRuntime(bundle, threads=1, num_slots=2) as half,
        TorchRuntime(tiny_model(bundle.config), num_slots=2) as reference,
    ):
        answers = []
        for runtime in (half, reference):
            full, other = Row(), Row()
            run_step(runtime, [full.bring(range(10, 24))])
            for token in range(runtime.capacity - 15):
                run_step(runtime, [full.bring([token + 3])])
            last = [full.bring([9]), other.bring(range(30, 44))]
            answers.append(np.concatenate(run_step(runtime, last)))
            assert full.past == runtime.capacity
    assert cosines(*answers).min() > 0.99999


def test_the_cache_is_float16_and_updated_in_place(bundle_of: BundleOf) -> None:
    bundle = bundle_of("opt", TARGET)
    assert bundle.manifest.cache.dtype == "float16"
    with OnnxRuntime(bundle, threads=1, num_slots=1) as runtime:
        keys = runtime._cache.view(0, 0, 1)
        assert keys.dtype == np.float16
        assert not keys.any()
        run_step(runtime, [Row().bring([5, 6, 7])])
        assert keys[:, :, :3].all(axis=-1).any()
        assert not keys[:, :, 3:].any()
