"""Which measurements there are, in which order, and which still fit in the time that is left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

__all__ = ["Cell", "Deadline", "Estimates", "allowance_s", "cells", "largest_first"]

#: Largest share of the time left that a round may use while others are to come: the first round
#: must get through.
_ROUND_SHARE = 0.65

#: A contestant's turn may take up to this many times its even share, as fast ones leave time over.
_MAX_UNEVENNESS = 1.8

#: On CPUs an image takes up to this many times as long in a smaller batch.
_SMALLER_BATCH_FACTOR = 2.0


class Deadline:
    """Counts down from `seconds` as soon as it is made."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._end = now() + seconds

    @property
    def remaining_s(self) -> float:
        """Seconds left; negative once they are over."""
        return self._end - self._now()

    def share(self, parts: int) -> Deadline:
        """A deadline after an equal share of the time left; time that it leaves over goes to the
        parts that follow."""
        return Deadline(self.remaining_s / parts, self._now)


@dataclass(frozen=True)
class Cell:
    """The first `images` rows, `batch` at once."""

    batch: int
    images: int

    @property
    def key(self) -> str:
        return f"{self.batch}x{self.images}"

    @property
    def num_batches(self) -> int:
        return math.ceil(self.images / self.batch)

    def covers(self, other: Cell) -> bool:
        """Whether it is as large as `other` or larger: what fails with that fails with this."""
        return self.batch >= other.batch and self.images >= other.images


def cells(
    batches: Sequence[int], images: int, single_images: int, growth: Sequence[int]
) -> list[Cell]:
    """What to measure, the most informative first.

    batches: sizes; batch 1 takes `single_images` rows, the others `images`, or a whole batch if
    that is more. growth: numbers of images, all with batch 16.
    """
    order = sorted(batches, key=lambda batch: (batch != 8, batch))
    listed = [Cell(batch, single_images if batch == 1 else max(images, batch)) for batch in order]
    return listed + [Cell(16, count) for count in growth if Cell(16, count) not in listed]


def largest_first(listed: Sequence[Cell]) -> list[Cell]:
    """The largest batches first: they say most where time may run out."""
    return sorted(listed, key=lambda cell: (-cell.batch, -cell.images))


@dataclass
class Estimates:
    """How long a contestant takes, from what it took before.

    smaller_batch_factor: how many times as long an image takes in a smaller batch. Infinity, as for
    GPUs: nothing is known but that a smaller batch takes no longer than a larger one.
    """

    smaller_batch_factor: float = _SMALLER_BATCH_FACTOR
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
        image_s = median(self._image_s[nearest])
        if cell.batch >= nearest.batch:
            return image_s * cell.images
        batch_s = image_s * nearest.images / nearest.num_batches
        return min(image_s * self.smaller_batch_factor * cell.images, batch_s * cell.num_batches)


def allowance_s(left_s: float, turns_left: int, rounds_left: int) -> float:
    """Seconds that this turn may take; turns_left: of this round, this one included."""
    this_round_s = left_s * (_ROUND_SHARE if rounds_left > 1 else 1.0)
    return min(this_round_s, _MAX_UNEVENNESS * this_round_s / turns_left)
