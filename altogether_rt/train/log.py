"""The log of a training run: lines on the terminal, rows of metrics.jsonl, TensorBoard scalars."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TextIO

from altogether_rt.artifacts.files import open_to_append, write_whole

__all__ = ["Countdown", "TrainLog"]

#: Seconds between two lines about images that are prepared or embedded.
_INTERVAL_S = 20.0
#: A step that takes so long is told of by itself: ten of them would be a long silence.
_SLOW_STEP_S = 2.0


class Countdown:
    """Tells now and then how many images are done, and how long the others will take."""

    def __init__(self, say: Callable[[str], None], what: str, total: int, done: int = 0) -> None:
        """what: was done with the images, such as `embedded`. done: of them by earlier runs."""
        self._say, self._what, self._total, self._first = say, what, total, done
        self._start = self._told = time.monotonic()

    def advance(self, done: int) -> None:
        now = time.monotonic()
        if now - self._told < _INTERVAL_S or done <= self._first:
            return
        self._told = now
        left = (now - self._start) / (done - self._first) * (self._total - done)
        self._say(f"{self._what} {done:,} of {self._total:,} images  {_duration(left)} left")


class TrainLog:
    """Writes metrics and samples to files in a folder, and short lines to `say`."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "metrics.jsonl"
        self._rows = _open_rows(self._path)
        self._say = say
        self._board = _tensorboard(folder / "tensorboard", say)

    def rewind(self, stage: str, step: int) -> None:
        """Forget the rows of a stage's later steps, which are going to be computed again.

        TensorBoard keeps its own: it draws equal values twice.
        """
        with self._path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            lines = file.readlines()  # not `splitlines`: a sample may hold U+2028
        kept = [line for line in lines if not _is_later(line, stage, step)]
        if len(kept) < len(lines):
            self._rows.close()
            write_whole(self._path, "".join(kept))
            self._rows = _open_rows(self._path)

    def progress(self, stage: str, step: int, num_steps: int, values: Mapping[str, float]) -> None:
        """Log metrics of the steps since the last call."""
        self._row({"task": stage, "step": step, **values})
        for name, value in values.items():
            if self._board is not None:
                self._board.add_scalar(f"{stage}/{name}", value, step)
        self._say(
            f"{stage} {step}/{num_steps}  loss {values['loss']:.4f}  "
            f"{_rate(values['samples_per_s'])} samples/s  {_duration(values['eta_s'])} left"
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

    def first_step(self, stage: str, seconds: float, steps_left: int) -> None:
        """Tell after a slow first step how long the others will take."""
        if seconds >= _SLOW_STEP_S:
            left = _duration(seconds * steps_left)
            self._say(f"{stage}: the first step took {seconds:.0f} s, about {left} left")

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


def _open_rows(path: Path) -> TextIO:
    # Texts of training files may hold what UTF-8 cannot: JSON has the same escapes.
    return os.fdopen(open_to_append(path), "a", encoding="utf-8", errors="backslashreplace")


def _is_later(line: str, stage: str, step: int) -> bool:
    """Whether a row is of a later step of the stage, or was cut off when its run was killed."""
    try:
        row = json.loads(line)
        return bool(row["task"] == stage and row["step"] > step)
    except (ValueError, KeyError, TypeError, RecursionError):
        return True


def _rate(per_s: float) -> str:
    return f"{per_s:.0f}" if per_s >= 10 else f"{per_s:.2g}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _tensorboard(folder: Path, say: Callable[[str], None]) -> Any:
    """A TensorBoard writer, or None where tensorboard is not installed or cannot write."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    try:
        return SummaryWriter(str(folder))
    except UnicodeEncodeError:  # its writer takes names in UTF-8 alone
        say(f"nothing is written for TensorBoard, which cannot use a folder of this name: {folder}")
        return None
