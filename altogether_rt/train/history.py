"""How a stage's losses and held-out figures went: what its state and its checkpoint say of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["StageHistory"]


@dataclass
class StageHistory:
    """Last and best values of one stage, by step."""

    num_steps: int = 0  # done
    loss: dict[str, float] = field(default_factory=dict)  # mean of the steps since the one before
    held_out: dict[str, float] = field(default_factory=dict)

    def add_loss(self, step: int, loss: float) -> None:
        """A mean training loss, at its last step."""
        _update(self.loss, "loss", step, loss)

    def add_held_out(self, step: int, values: Mapping[str, float]) -> None:
        """Loss and metrics on what was held out."""
        if "loss" in values:
            _update(self.held_out, "loss", step, values["loss"])
        self.held_out |= {name: value for name, value in values.items() if name != "loss"}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, which `from_dict` reads."""
        return {"steps": self.num_steps, "loss": self.loss, "held_out": self.held_out}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StageHistory:
        return cls(data.get("steps", 0), dict(data.get("loss", {})), dict(data.get("held_out", {})))


def _update(values: dict[str, float], name: str, step: int, value: float) -> None:
    best = values.get(f"best_{name}", math.inf)
    values |= {f"last_{name}": value, "last_step": step}
    if value < best:
        values |= {f"best_{name}": value, "best_step": step}
