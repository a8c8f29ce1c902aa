"""The log of a training run: lines on the terminal, rows of metrics.jsonl, TensorBoard scalars."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from altogether_rt.artifacts.files import open_to_append

__all__ = ["TrainLog"]


class TrainLog:
    """Writes metrics and samples to files in a folder, and short lines to `say`."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._rows = os.fdopen(open_to_append(folder / "metrics.jsonl"), "a", encoding="utf-8")
        self._say = say
        self._board = _tensorboard(folder / "tensorboard")

    def progress(self, stage: str, step: int, num_steps: int, values: Mapping[str, float]) -> None:
        """Log metrics of the steps since the last call."""
        self._row({"task": stage, "step": step, **values})
        for name, value in values.items():
            if self._board is not None:
                self._board.add_scalar(f"{stage}/{name}", value, step)
        self._say(
            f"{stage} {step}/{num_steps}  loss {values['loss']:.4f}  "
            f"{values['samples_per_s']:.0f} samples/s  {_duration(values['eta_s'])} left"
        )

    def sample(self, stage: str, step: int, text: str) -> None:
        """Log an example of what the model does at this step."""
        self._row({"task": stage, "step": step, "sample": text})
        self._say(f"{stage} {step}  {text}")

    def held_out(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Log figures on held-out examples."""
        self._row({"task": stage, "step": step, "held_out": dict(values)})
        for name, value in values.items():
            if self._board is not None:
                self._board.add_scalar(f"{stage}/held_out_{name}", value, step)
        figures = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        self._say(f"{stage} {step}  held out: {figures}")

    def note(self, text: str) -> None:
        """Log a single event."""
        self._say(text)

    def _row(self, row: Mapping[str, Any]) -> None:  # "task" is a key of the file format
        self._rows.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._rows.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()
        if self._board is not None:
            self._board.close()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _tensorboard(folder: Path) -> Any:
    """A TensorBoard writer, or None where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
