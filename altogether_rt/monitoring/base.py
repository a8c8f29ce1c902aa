"""The contract of an observer, to which a run's state and events are shown; and several of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from altogether_rt.monitoring.state import RunState

__all__ = ["Level", "Observer", "Observers", "timestamp"]

Level = Literal["info", "warning", "error"]


class Observer:
    """Sees a run; each method may be left as it is. Calls never overlap.

    An OSError or ValueError of a method (a full disk, a closed stream) ends the observer, not the
    run.
    """

    #: Seconds between two calls of `update`; None: never.
    interval_s: float | None = None

    def start(self, state: RunState) -> None:
        """The run begins."""

    def update(self, state: RunState) -> None:
        """The state now; called every `interval_s`, whether or not anything was done."""

    def event(self, level: Level, name: str, message: str, fields: dict[str, Any]) -> None:
        """Something happened. name: `note`, `restart`, `image_error`, …"""

    def finish(self, state: RunState) -> None:
        """The run is over, or was stopped."""


class Observers:
    """Several observers, called one at a time whichever thread calls."""

    def __init__(
        self, observers: Sequence[Observer] = (), lock: threading.RLock | None = None
    ) -> None:
        self._observers = list(observers)
        self._lock = lock or threading.RLock()

    def __iter__(self) -> Iterator[Observer]:
        return iter(list(self._observers))

    def add(self, observer: Observer) -> None:
        self._observers.append(observer)

    def joined_by(self, more: Sequence[Observer]) -> Observers:
        """These and others, none of which are called at the same time as any of these."""
        return Observers([*self._observers, *more], self._lock)

    def call(self, observer: Observer, show: Callable[[Observer], None]) -> None:
        """Call one of them, unless it has failed before."""
        with self._lock:
            if observer not in self._observers:
                return
            try:
                show(observer)
            except (OSError, ValueError):
                self._observers.remove(observer)

    def event(self, level: Level, name: str, message: str, **fields: Any) -> None:
        """Tell all of them."""
        for observer in self:
            self.call(observer, lambda seen: seen.event(level, name, message, fields))


def timestamp() -> str:
    """The time now, in UTC: `2026-11-26T12:00:00.123Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
