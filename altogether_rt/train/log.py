"""Progress of training: a line on the terminal, a row in metrics.jsonl, a point in TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from typing_extensions import Self

__all__ = ["TrainLog"]


class TrainLog:
    """Writes what happens to a folder, and short lines to `say`."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._rows = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._say = say
        self._board = _tensorboard(folder / "tensorboard")

    def progress(self, task: str, step: int, num_steps: int, values: Mapping[str, float]) -> None:
        """Metrics of the steps since the last call."""
        self._row({"task": task, "step": step, **values})
        for name, value in values.items():
            if self._board is not None:
                self._board.add_scalar(f"{task}/{name}", value, step)
        self._say(
            f"{task} {step}/{num_steps}  loss {values['loss']:.4f}  "
            f"{values['samples_per_s']:.0f} samples/s  {_duration(values['eta_s'])} left"
        )

    def sample(self, task: str, step: int, text: str) -> None:
        """An example of what the model does now."""
        self._row({"task": task, "step": step, "sample": text})
        self._say(f"{task} {step}  {text}")

    def note(self, text: str) -> None:
        """Something that happened once."""
        self._say(text)

    def _row(self, row: Mapping[str, Any]) -> None:
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
