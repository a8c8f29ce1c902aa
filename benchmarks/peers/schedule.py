"""Which measurements there are, and which of them still fit in the time that is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

__all__ = ["Cell", "Estimates", "allowance_s", "cells"]

#: Of the time left, what all rounds but the last may use at most; the first one must get through.
_ROUND_SHARE = 0.65

#: A contestant's turn may take so many times its even share: the fast ones leave some over.
_MAX_UNEVENNESS = 1.8

#: A batch of one image costs up to this many times an image of a larger batch.
_SMALLER_BATCH_FACTOR = 2.0


@dataclass(frozen=True)
class Cell:
    """The first `images` rows, `batch` at once."""

    batch: int
    images: int

    @property
    def key(self) -> str:
        return f"{self.batch}x{self.images}"


def cells(
    batches: Sequence[int], images: int, single_images: int, growth: Sequence[int]
) -> list[Cell]:
    """What to measure, the most telling first.

    batches: sizes; batch 1 takes `single_images` rows, the others `images`, or a whole batch if
    that is more. growth: numbers of images, all with batch 16.
    """
    order = sorted(batches, key=lambda batch: (batch != 8, batch))
    listed = [Cell(batch, single_images if batch == 1 else max(images, batch)) for batch in order]
    return listed + [Cell(16, count) for count in growth if Cell(16, count) not in listed]


@dataclass
class Estimates:
    """How long a contestant takes, from what it took before."""

    _image_s: dict[Cell, list[float]] = field(default_factory=dict)

    def add(self, cell: Cell, seconds: float) -> None:
        self._image_s.setdefault(cell, []).append(seconds / cell.images)

    def repetitions(self, cell: Cell) -> int:
        """How often it was measured so far."""
        return len(self._image_s.get(cell, ()))

    def seconds(self, cell: Cell) -> float | None:
        """Expected seconds of `cell`; None if nothing is known yet."""
        if cell in self._image_s:
            return median(self._image_s[cell]) * cell.images
        if not self._image_s:
            return None
        nearest = min(self._image_s, key=lambda known: abs(known.batch - cell.batch))
        factor = _SMALLER_BATCH_FACTOR if cell.batch < nearest.batch else 1.0
        return median(self._image_s[nearest]) * cell.images * factor


def allowance_s(left_s: float, turns_left: int, rounds_left: int) -> float:
    """Seconds that this turn may take; turns_left: of this round, this one included."""
    this_round_s = left_s * (_ROUND_SHARE if rounds_left > 1 else 1.0)
    return min(this_round_s, _MAX_UNEVENNESS * this_round_s / turns_left)
