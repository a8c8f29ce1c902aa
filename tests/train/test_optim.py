"""The schedule and the parameter groups of the paper."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from altogether_rt.train.optim import build_optimizer, learning_rate
from altogether_rt.train.recipe import Optimization


def test_schedule_warms_up_and_ends_at_the_floor() -> None:
    recipe = Optimization(num_steps=1000, peak_lr=2e-4, lr_floor=0.1, warmup_steps=200)
    assert learning_rate(0, recipe) == pytest.approx(1e-6)
    assert learning_rate(199, recipe) == pytest.approx(2e-4)
    assert learning_rate(200, recipe) == pytest.approx(2e-4)
    assert learning_rate(600, recipe) == pytest.approx(2e-4 * 0.55)  # half way down
    assert learning_rate(999, recipe) == pytest.approx(2e-5, rel=0.01)
    rates = [learning_rate(step, recipe) for step in range(200, 1000)]
    assert rates == sorted(rates, reverse=True) and rates[-1] >= 2e-5


def test_only_matrices_decay() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Embedding(3, 4))
    module[0].weight.requires_grad_(False)
    decaying, other = build_optimizer(module, Optimization(1, weight_decay=0.2)).param_groups
    assert decaying["weight_decay"] == 0.2 and other["weight_decay"] == 0
    assert [tuple(p.shape) for p in decaying["params"]] == [(3, 4)]
    assert {p.ndim for p in other["params"]} == {1} and len(other["params"]) == 3


def test_defaults_are_the_papers() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), Optimization(1))
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (2e-4, (0.9, 0.98), 1e-6)
    assert isinstance(optimizer, torch.optim.AdamW)
