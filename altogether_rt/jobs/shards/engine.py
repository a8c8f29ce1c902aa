"""The contract of a shard engine, and the one that captions in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Self

from altogether_rt.data.sinks.shards.open_store import open_store
from altogether_rt.data.sinks.shards.stats import RowCounts
from altogether_rt.generation.engine import EngineStats
from altogether_rt.jobs.executor import Executor
from altogether_rt.jobs.shards.plan import ShardJob, ShardResult, ShardTask
from altogether_rt.jobs.shards.shard import caption_shard

__all__ = ["LocalShardEngine", "OnResult", "OnRows", "ShardEngine"]

#: Told of rows that were made since it was last told.
OnRows = Callable[[RowCounts], None]

#: Told what became of a shard.
OnResult = Callable[[ShardResult], None]


class ShardEngine(ABC):
    """Captions shards somewhere: in this process, in several, on a cluster. A context manager."""

    @abstractmethod
    def run(
        self, tasks: Iterable[ShardTask], job: ShardJob, on_rows: OnRows, on_result: OnResult
    ) -> EngineStats:
        """Caption each shard with `caption_shard`, in any order, and call `on_result` for each.

        Tasks are drawn when there is somebody to do them. Returns what the captioners did. Raises
        AltogetherError or OSError if the run cannot go on; shards keep what they have.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None


class LocalShardEngine(ShardEngine):
    """One shard after another, in this process."""

    def __init__(self, open_executor: Callable[[], AbstractContextManager[Executor]]) -> None:
        """open_executor: called when there is a shard to caption."""
        self._open_executor = open_executor
        self._executor: Executor | None = None
        self._stack = ExitStack()

    def run(
        self, tasks: Iterable[ShardTask], job: ShardJob, on_rows: OnRows, on_result: OnResult
    ) -> EngineStats:
        store = open_store(job.out)
        stats = EngineStats()
        prefetch = getattr(job.open_shard, "prefetch", lambda shard: None)
        for task, following in _with_next(tasks):
            if following is not None:  # comes from its store while this one is captioned
                prefetch(following.shard)
            if self._executor is None:
                self._executor = self._stack.enter_context(self._open_executor())
            result = caption_shard(task, job, store, self._executor, on_rows)
            stats = result.engine or stats
            on_result(result)
        return stats

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()


def _with_next(tasks: Iterable[ShardTask]) -> Iterator[tuple[ShardTask, ShardTask | None]]:
    """Each task with the one after it."""
    pending = iter(tasks)
    task = next(pending, None)
    while task is not None:
        following = next(pending, None)
        yield task, following
        task = following
