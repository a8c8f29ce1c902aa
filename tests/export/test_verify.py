from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from altogether_rt.export.recipes import STAGES, Threshold
from altogether_rt.export.verify import Agreement, ParityError, check_parity, compare, record
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
