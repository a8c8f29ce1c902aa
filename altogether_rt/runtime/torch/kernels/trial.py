"""What kernels are tried with before they are used: on a device, beside plain PyTorch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["distance", "on_device"]


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Kernels start on `device` in this context, which only GPUs need."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def distance(found: Tensor, wanted: Tensor) -> float:
    """How far a result is from the one wanted, as a fraction of its norm; NaN of no numbers."""
    wide = wanted.float()
    return float((found.float() - wide).norm() / wide.norm())
