"""One deadline that all parts of a run share."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Deadline"]


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
        """A deadline of an equal share of what is left; what a part does not use, the next have."""
        return Deadline(self.remaining_s / parts, self._now)
