"""Makes open_clip and transformers importable where torchvision was built for another PyTorch.

Package indexes offer one torchvision, built against CUDA. With a CPU build of PyTorch its compiled
operators do not load, and importing it fails because two of them are not declared. Nothing here
calls either, so it is enough to declare them first.
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
    """Declare torchvision's operators if PyTorch is a CPU build and torchvision a CUDA build.

    Otherwise torchvision declares them itself, and a second declaration would fail.
    """
    if torch.version.cuda is not None or "torchvision" in sys.modules or not _is_cuda_build():
        return
    for name, schema in _OPERATORS.items():
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", schema)


def _is_cuda_build() -> bool:
    """Whether the installed torchvision was built for CUDA, found out without importing it."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    version_file = Path(spec.origin).with_name("version.py")
    return version_file.is_file() and "+cu" in version_file.read_text("utf-8", "replace")
