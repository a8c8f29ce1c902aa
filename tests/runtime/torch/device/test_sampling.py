"""Tokens drawn on the device are those that the host draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from altogether_rt.generation.sampling import sample_top_p
from altogether_rt.runtime.base import UNDECIDED
from altogether_rt.runtime.torch.device.sampling import MAX_CANDIDATES, sample


@pytest.mark.parametrize("vocab", [97, 4 * MAX_CANDIDATES])
def test_the_draw_is_that_of_the_host(vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    rows = 300
    logits = (3 * rng.standard_normal((rows, vocab))).astype(np.float32)
    logits[::5] = np.round(logits[::5])  # ties
    uniforms = rng.random(rows)
    uniforms[:2] = 0.0, np.nextafter(1, 0)
    temperatures, top_ps = rng.uniform(0.1, 1.5, rows), rng.uniform(0.05, 1.0, rows)
    top_ps[2::7] = 1.0
    given = (torch.from_numpy(each) for each in (logits, uniforms, temperatures, top_ps))
    found = sample(*given).tolist()
    decided = 0
    for row, token in enumerate(found):
        if token == UNDECIDED:
            assert vocab > MAX_CANDIDATES
            continue
        decided += 1
        draw = (float(uniforms[row]), float(temperatures[row]), float(top_ps[row]))
        assert token == sample_top_p(logits[row], *draw)
    assert decided > rows / 2


def test_rows_without_temperature_are_greedy_and_no_numbers_are_left_to_the_host() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0], [1.0, float("nan"), 2.0]])
    ones = torch.ones(2, dtype=torch.float64)
    found = sample(logits, 0.5 * ones, torch.tensor([0.0, 1.0]).double(), ones)
    assert found.tolist() == [1, UNDECIDED]


def test_what_the_likeliest_tokens_do_not_reach_is_left_to_the_host() -> None:
    flat = torch.zeros(1, 2 * MAX_CANDIDATES)
    one = torch.ones(1, dtype=torch.float64)
    assert sample(flat, 0.5 * one, one, 0.9 * one).tolist() == [UNDECIDED]
    assert sample(flat, 0.5 * one, one, 0.4 * one).tolist() != [UNDECIDED]
