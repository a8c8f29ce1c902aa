"""AdamW and its learning-rate schedule, as the paper configures them."""

from __future__ import annotations

import math

import torch
from torch import nn

from altogether_rt.train.recipe import Optimization

__all__ = ["build_optimizer", "learning_rate"]


def learning_rate(step: int, recipe: Optimization) -> float:
    """The learning rate of a step (from 0): linear warm-up, then a cosine down to the floor."""
    if step < recipe.warmup_steps:
        return recipe.peak_lr * (step + 1) / recipe.warmup_steps
    span = max(1, recipe.num_steps - recipe.warmup_steps)
    progress = min(1.0, (step - recipe.warmup_steps) / span)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.peak_lr * (recipe.lr_floor + (1 - recipe.lr_floor) * cosine)


def build_optimizer(module: nn.Module, recipe: Optimization) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; biases, norms and 1-d parameters do not decay."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    on_gpu = bool(trainable) and trainable[0].device.type == "cuda"
    return torch.optim.AdamW(
        groups,
        lr=recipe.peak_lr,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.eps,
        foreach=not on_gpu,
        fused=on_gpu,  # one kernel over all parameters; the CPU's has other bits than before
    )
