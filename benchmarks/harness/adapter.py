"""What a piece of software offers to be measured: the worker's side of a contestant.

Only the standard library is imported here, as every environment imports this module.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

__all__ = ["Adapter", "Unavailable", "need", "need_torch"]


class Unavailable(Exception):
    """The contestant cannot run on this machine or with this configuration."""


class Adapter:
    """One piece of software that captions rows. Subclasses define `load` and `run`.

    The worker calls `prepare`, `load`, then `check`, `run`, `tokens` and `stages` in any order, and
    `close` at the end. Rows are `rows.Row`.
    """

    #: Seconds spent in encoder and mapper so far.
    encode_s: float = 0.0

    def prepare(self, options: dict[str, Any]) -> None:
        """Check that this machine has what is needed. Raises Unavailable with the reason."""

    def load(self, options: dict[str, Any], threads: int | None) -> dict[str, Any]:
        """Load weights; returns figures for the result. threads: None leaves the number alone."""
        raise NotImplementedError

    def check(self) -> dict[str, Any]:
        """Figures of a comparison with the reference, where the contestant has one."""
        return {}

    def begin(self) -> None:
        """Forget what earlier captions have taught; called before each measurement."""

    def run(self, rows: Sequence[Any], batch: int) -> list[list[int]]:
        """Token ids of each row's caption, at least `caption_tokens` of them."""
        raise NotImplementedError

    def tokens(self, rows: Sequence[Any], mode: str) -> list[list[int]]:
        """The same for one kind of prompt: `visual`, `attended_left` or `stand_in`."""
        raise NotImplementedError

    def stages(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Figures of the parts of a run, for contestants that can measure them."""
        return {}

    def notes(self) -> dict[str, Any]:
        """Further figures of the last measurement."""
        return {}

    def close(self) -> None:
        """Free what was loaded."""


def need(*packages: str) -> None:
    """Raise Unavailable unless one of `packages`, which are alternatives, is installed."""
    if not any(importlib.util.find_spec(package) for package in packages):
        raise Unavailable(f"{' or '.join(packages)} is not installed")


def need_torch(device: str) -> None:
    """Raise Unavailable unless torch is installed and sees `device`."""
    need("torch")
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise Unavailable(f"torch {torch.__version__} finds no CUDA device")
