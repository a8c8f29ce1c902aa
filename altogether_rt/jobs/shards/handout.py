"""What engines with workers share: which shard is next, what workers tell, and how many deaths end
a run."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from altogether_rt.data.sinks.shards.claims import ProcessId
from altogether_rt.data.sinks.shards.stats import RowCounts
from altogether_rt.errors import AltogetherError
from altogether_rt.generation.engine import EngineStats
from altogether_rt.jobs.shards.engine import OnResult, OnRows
from altogether_rt.jobs.shards.plan import ShardResult, ShardTask
from altogether_rt.jobs.worker import Failure

__all__ = ["Deaths", "HandOut", "ShardWorker", "take_news"]

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


class ShardWorker(Protocol):
    """What an engine remembers of a worker, whatever it is."""

    task: ShardTask | None  # the shard that it has
    engine: EngineStats | None  # what its captioner did


def take_news(
    message: object, worker: ShardWorker, deaths: Deaths, on_rows: OnRows, on_result: OnResult
) -> None:
    """Take what a worker that is ready has told of its shard.

    Raises AltogetherError or OSError if captioning cannot go on there.
    """
    if isinstance(message, Failure):
        raise AltogetherError(message.message)
    if isinstance(message, OSError):
        raise message
    if isinstance(message, RowCounts):
        deaths.note_rows()
        on_rows(message)
        return
    assert isinstance(message, ShardResult)
    worker.task = None
    worker.engine = message.engine or worker.engine
    on_result(message)
