"""Which shard a worker is given next, and when too many workers have died."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable

from altogether_rt.data.sinks.shards.claims import ProcessId
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.shards.plan import ShardTask

__all__ = ["Deaths", "HandOut"]

#: Deaths in a row that end a run: of workers that never became ready, or without a row made.
_MAX_BEFORE_READY = 3
_MAX_WITHOUT_ROWS = 12


class HandOut:
    """Shards that nobody has: those of dead workers first, then the largest.

    A large shard that is begun last would keep one worker busy while the others have nothing.
    """

    def __init__(self, tasks: Iterable[ShardTask]) -> None:
        self._again: deque[ShardTask] = deque()
        self._pending = deque(sorted(tasks, key=lambda task: -(task.shard.num_bytes or 0)))

    def __len__(self) -> int:
        return len(self._again) + len(self._pending)

    def next(self) -> ShardTask | None:
        """The shard to be done next; None if somebody has each of them."""
        if self._again:
            return self._again.popleft()
        return self._pending.popleft() if self._pending else None

    def put_back(self, task: ShardTask, died: ProcessId | None) -> None:
        """The worker that had this shard is dead. died: its process, where that is known."""
        if died is not None:
            task = dataclasses.replace(task, died=(*task.died, died))
        self._again.append(task)


class Deaths:
    """Counts deaths of workers in a row; too many end the run.

    One over a shard is the shard's matter, or a sample's (see `care`); these say that the machine,
    or the captioner, is at fault.
    """

    def __init__(self, num_together: int = 0) -> None:
        """num_together: workers that one cause may end at once, besides those that end alone."""
        self._max_before_ready = _MAX_BEFORE_READY + num_together
        self._max_without_rows = _MAX_WITHOUT_ROWS + num_together
        self._before_ready = 0
        self._without_rows = 0

    def note_ready(self) -> None:
        """A worker has opened its captioner."""
        self._before_ready = 0

    def note_rows(self) -> None:
        """A worker has made rows."""
        self._without_rows = 0

    def add(self, how: str, *, was_ready: bool) -> None:
        """A worker died. how: the start of a sentence. Raises AltogetherError if they are many."""
        self._before_ready += not was_ready
        self._without_rows += 1
        if (
            self._before_ready >= self._max_before_ready
            or self._without_rows >= self._max_without_rows
        ):
            raise AltogetherError(
                f"{how}, and so did those before it: the captions so far are kept; free some "
                "memory or use fewer workers, then give the same command to go on."
            )
