"""Why a contestant does not take part."""

from __future__ import annotations

import importlib.util

__all__ = ["Skip", "need", "need_torch"]


class Skip(Exception):
    """This machine or this configuration is not one that the contestant can run on."""


def need(*packages: str) -> None:
    """Raises Skip if none of `packages`, alternatives to each other, is installed."""
    if not any(importlib.util.find_spec(package) for package in packages):
        raise Skip(f"{' or '.join(packages)} is not installed")


def need_torch(device: str) -> None:
    """Raises Skip if there is no torch for `device`."""
    need("torch")
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise Skip(f"torch {torch.__version__} finds no CUDA device")
