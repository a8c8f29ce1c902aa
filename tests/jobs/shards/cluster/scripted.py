"""A cluster without machines: what its workers tell is worked out when they are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from altogether_rt.data.sinks.shards.claims import ProcessId
from altogether_rt.data.sinks.shards.stats import RowCounts
from altogether_rt.jobs.shards.cluster.base import Cluster, RemoteWorker, WorkerDied
from altogether_rt.jobs.shards.cluster.room import Node, WorkerSize
from altogether_rt.jobs.shards.cluster.worker import Message, Ready
from altogether_rt.jobs.shards.plan import ShardJob, ShardResult, ShardTask
from altogether_rt.jobs.worker import OpenCaptioner

News = list[Message] | WorkerDied

#: What the worker of a number, from 0, tells of a shard, or of its start if that is None.
Behaviour = Callable[[int, ShardTask | None], News]


def done(task: ShardTask) -> News:
    """What a worker tells that captioned a shard of five samples."""
    counts = RowCounts(rows=5, captioned=5)
    return [counts, ShardResult(task.shard.name, "done", counts, num_new=5)]


def fine(number: int, task: ShardTask | None) -> News:
    return [Ready(ProcessId(f"host{number}", "boot", number, 1))] if task is None else done(task)


@dataclass(eq=False)
class ScriptedWorker(RemoteWorker):
    number: int
    opened: bool = False
    task: ShardTask | None = None
    given: list[ShardTask] = field(default_factory=list)
    stopped: bool = False
    killed: bool = False

    def give(self, task: ShardTask) -> None:
        assert self.opened and self.task is None
        self.task = task
        self.given.append(task)

    def stop(self) -> None:
        self.stopped = True

    def kill(self) -> None:
        self.killed = True


@dataclass
class ScriptedCluster(Cluster):
    behaviour: Behaviour = fine
    machines: list[Node] = field(default_factory=lambda: [Node(1), Node(1)])
    workers: list[ScriptedWorker] = field(default_factory=list)
    left: bool = False

    @contextmanager
    def connect(self) -> Iterator[Cluster]:
        try:
            yield self
        finally:
            self.left = True

    def nodes(self) -> list[Node]:
        return self.machines

    def start(self, open_captioner: OpenCaptioner, job: ShardJob, size: WorkerSize) -> RemoteWorker:
        self.workers.append(ScriptedWorker(len(self.workers)))
        return self.workers[-1]

    def wait(
        self, workers: Sequence[RemoteWorker], timeout_s: float
    ) -> list[tuple[RemoteWorker, News]]:
        told: list[tuple[RemoteWorker, News]] = []
        assert workers, "nobody is listened to"
        for worker in workers:
            assert isinstance(worker, ScriptedWorker)
            news = self.behaviour(worker.number, worker.task if worker.opened else None)
            worker.opened = True
            worker.task = None
            told.append((worker, news))
        return told

    def wait_for_stop(self, workers: Sequence[RemoteWorker], timeout_s: float) -> None:
        assert all(isinstance(worker, ScriptedWorker) and worker.stopped for worker in workers)
