from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from altogether_rt.export.recipes import STAGES, Threshold
from altogether_rt.export.verify import (
    Agreement,
    ParityError,
    check_parity,
    compare,
    logit_agreement,
    record,
)
from altogether_rt.runtime.torch.runtime import TorchRuntime
from tests.tiny import tiny_config, tiny_model, tiny_samples

THRESHOLDS = {stage: Threshold(0.99, 0.9) for stage in STAGES}


def agreement(mean: float, worst: float) -> Agreement:
    return Agreement(mean, worst, 0.1, 1.0, 4)


def test_a_model_agrees_with_itself_and_not_with_another() -> None:
    config = tiny_config()
    with TorchRuntime(tiny_model(config), num_slots=4) as model:
        recording = record(model, tiny_samples())
        same = compare(recording, model)
    assert set(same) == set(STAGES)
    assert all(found.worst_cosine > 0.999999 for found in same.values())
    assert same["prefill"].greedy == 1.0
    assert same["prefill"].rows == sum(len(ids) + 1 for ids in tiny_samples().prompt_ids)
    with TorchRuntime(tiny_model(config, seed=1), num_slots=4) as other:
        different = compare(recording, other)
    assert all(found.mean_cosine < 0.9 for found in different.values())


def test_no_more_rows_than_slots() -> None:
    with TorchRuntime(tiny_model(tiny_config()), num_slots=2) as model:
        recording = record(model, tiny_samples(rows=4))
    assert len(recording.embeddings) == 2


def test_decode_follows_the_reference() -> None:
    """Step inputs are the reference's own choices, one token a row behind the prompt."""
    with TorchRuntime(tiny_model(tiny_config()), num_slots=4) as model:
        recording = record(model, tiny_samples())
    ends = np.cumsum([len(ids) + 1 for ids in tiny_samples().prompt_ids]) - 1
    assert recording.steps[1].token_ids.tolist() == recording.logits[0][ends].argmax(-1).tolist()
    assert recording.steps[1].past_lengths.tolist() == recording.steps[0].query_lengths.tolist()
    assert recording.steps[2].token_ids.tolist() == recording.logits[1].argmax(-1).tolist()


@pytest.mark.parametrize("bad", [(0.98, 0.95), (0.995, 0.8), (float("nan"), float("nan"))])
def test_a_figure_below_its_threshold_fails(bad: tuple[float, float]) -> None:
    good = {stage: agreement(1, 1) for stage in STAGES}
    figures = check_parity(good, THRESHOLDS)
    assert figures["step"]["required"] == {"mean": 0.99, "worst": 0.9}
    with pytest.raises(ParityError, match="the exported prefill differs"):
        check_parity({**good, "prefill": agreement(*bad)}, THRESHOLDS)


def test_another_shape_is_no_agreement() -> None:
    with TorchRuntime(tiny_model(tiny_config()), num_slots=4) as model:
        recording = record(model, tiny_samples())

        class Broadcasting:
            def __getattr__(self, name: str) -> Any:
                return getattr(model, name)

            def encode(self, pixels: np.ndarray) -> np.ndarray:
                return model.encode(pixels)[None].repeat(4, 0)

        with pytest.raises(ParityError, match="a graph returned shape"):
            compare(recording, Broadcasting())


def test_figures_of_logits_are_those_of_their_formulas() -> None:
    """Worked out with probabilities that divide evenly."""
    wanted = np.log(np.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]], np.float32))
    found = np.log(np.array([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]], np.float32))
    agreement = logit_agreement(wanted, found, np.array([0, -1]))
    divergence = 0.5 * np.log(2) - 0.25 * np.log(2)
    assert agreement.kl == pytest.approx(divergence / 2)
    assert agreement.worst_kl == pytest.approx(divergence)
    assert agreement.greedy == 0.5
    assert agreement.nll == pytest.approx(np.log(2))
    assert agreement.nll_difference == pytest.approx(np.log(2))


def test_what_softmax_ignores_does_not_count() -> None:
    """A row's mean, which in trained decoders is larger than all else, hides or feigns errors."""
    rng = np.random.default_rng(0)
    wanted = rng.normal(size=(4, 50)).astype(np.float32)
    shifted = logit_agreement(wanted, wanted + 20, np.full(4, -1))
    assert shifted.worst_cosine > 0.99999
    assert shifted.worst_kl is not None and shifted.worst_kl < 1e-4
    assert shifted.nll is None
    others = rng.normal(size=(4, 50)).astype(np.float32)
    unlike = logit_agreement(wanted + 20, others + 20, np.full(4, -1))
    assert unlike.mean_cosine < 0.5
    assert unlike.kl is not None and unlike.kl > 0.3


def test_figures_are_those_of_all_rows_however_many() -> None:
    """Rows are compared in blocks; the worst and the largest may be in any of them."""
    rng = np.random.default_rng(3)
    wanted = rng.normal(size=(150, 6)).astype(np.float32)
    found = wanted + 0.01 * rng.normal(size=wanted.shape).astype(np.float32)
    found[140] = rng.normal(size=6)
    wanted[70, 2] = 50.0
    a, b = (x.astype(np.float64) - x.astype(np.float64).mean(-1)[:, None] for x in (wanted, found))
    cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    agreement = logit_agreement(wanted, found, np.full(150, -1))
    assert agreement.rows == 150
    assert agreement.mean_cosine == pytest.approx(cosines.mean(), abs=1e-12)
    assert agreement.worst_cosine == pytest.approx(cosines[140], abs=1e-12)
    assert agreement.max_abs_error == pytest.approx(np.abs(a - b).max())
    assert agreement.max_abs_reference == pytest.approx(np.abs(a).max())


@pytest.mark.parametrize("bad", [(0.2, 0.3), (0.05, 0.9), (float("nan"), 0.1)])
def test_a_divergence_above_its_threshold_fails(bad: tuple[float, float]) -> None:
    thresholds = {**THRESHOLDS, "step": Threshold(0.99, 0.9, kl=0.1, worst_kl=0.5)}
    good = {stage: agreement(1, 1) for stage in STAGES}
    figures = check_parity(
        {**good, "step": replace(good["step"], kl=0.1, worst_kl=0.4)}, thresholds
    )
    assert figures["step"]["required"] == {"mean": 0.99, "worst": 0.9, "kl": 0.1, "worst_kl": 0.5}
    assert "kl" not in figures["encoder"]
    worse = replace(good["step"], kl=bad[0], worst_kl=bad[1])
    with pytest.raises(ParityError, match=r"the exported step differs.*nats per token"):
        check_parity({**good, "step": worse}, thresholds)


def test_likelihood_is_of_alt_texts_and_captions() -> None:
    with TorchRuntime(tiny_model(tiny_config()), num_slots=4) as model:
        recording = record(model, tiny_samples())
        figures = compare(recording, model)
    ids = [token for prompt in tiny_samples().prompt_ids for token in prompt]
    assert [token for token in recording.targets[0] if token >= 0] == ids
    assert (recording.targets[1] == recording.logits[1].argmax(-1)).all()
    assert figures["prefill"].nll_difference == pytest.approx(0, abs=1e-6)
