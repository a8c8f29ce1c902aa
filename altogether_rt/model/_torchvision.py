"""Lets open_clip and transformers import where torchvision was built for another torch.

Package indexes carry one torchvision, built against CUDA. Beside a CPU build of torch its compiled
operators do not load, and importing it fails on the declaration of two of them. Nothing here calls
either, so declaring them first is enough.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

__all__ = ["make_torchvision_importable"]

_OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def make_torchvision_importable() -> None:
    """Declares torchvision's operators, if a CPU build of torch stands beside a CUDA torchvision.

    Anywhere else torchvision declares them itself, and a second declaration would fail.
    """
    if torch.version.cuda is not None or "torchvision" in sys.modules or not _is_cuda_build():
        return
    for name, schema in _OPERATORS.items():
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", schema)


def _is_cuda_build() -> bool:
    """Whether the installed torchvision says it was built for CUDA; found without importing it."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    stated = Path(spec.origin).with_name("version.py")
    return stated.is_file() and "+cu" in stated.read_text("utf-8", "replace")
