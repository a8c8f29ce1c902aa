"""Shards captioned by workers on a cluster.

Workers read, caption and write by themselves, as those of this machine do: shards go out, counts
of rows come back. A worker that dies, or whose machine does, is started again where there is room;
its shard is given to the next one that is free, which goes on from the durable rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from types import TracebackType

from altogether_rt.data.sinks.shards.claims import ProcessId
from altogether_rt.errors import AltogetherError
from altogether_rt.generation.engine import EngineStats
from altogether_rt.jobs.shards.cluster.base import Cluster, RemoteWorker, WorkerDied
from altogether_rt.jobs.shards.cluster.room import WorkerSize, fitting, plan_workers
from altogether_rt.jobs.shards.cluster.worker import STOP_S, Bug, Message, Ready
from altogether_rt.jobs.shards.engine import OnResult, OnRows, ShardEngine
from altogether_rt.jobs.shards.handout import Deaths, HandOut, take_news
from altogether_rt.jobs.shards.plan import ShardJob, ShardTask
from altogether_rt.jobs.worker import OpenCaptioner

__all__ = ["ClusterShardEngine"]

#: Seconds between two looks at the cluster while no worker tells anything.
_POLL_S = 5.0

#: Seconds without a single worker after which that is said, and between two such notes.
_PATIENCE_S = 60.0


@dataclass
class _Worker:
    number: int  # counted from 1
    remote: RemoteWorker
    task: ShardTask | None = None
    process: ProcessId | None = None  # None: its captioner is not open yet
    engine: EngineStats | None = None  # what its captioner did

    @property
    def listened_to(self) -> bool:
        """Whether there will be news of it."""
        return self.process is None or self.task is not None

    def __str__(self) -> str:
        where = f" on {self.process.host}" if self.process else ""
        return f"worker {self.number}{where}"


class ClusterShardEngine(ShardEngine):
    """Captions shards with workers that live until the block is left."""

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[Cluster]],
        open_captioner: Callable[[int], OpenCaptioner],
        *,
        workers: int | None = None,
        threads: int | None = None,
        on_gpu: bool = False,
        on_restart: Callable[[str], None] = lambda sentence: None,
        note: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """connect: called when there is a shard to caption. open_captioner: given the number of
        threads, a function that is called in each worker.

        workers, threads, on_gpu: as `plan_workers` takes them. on_restart: told of each worker that
        died. note: told of what else one should know.
        """
        self._connect = connect
        self._open_captioner = open_captioner
        self._max_workers = workers
        self._threads = threads
        self._on_gpu = on_gpu
        self._on_restart = on_restart
        self._note = note
        self._stack = ExitStack()
        self._cluster: Cluster | None = None
        self._job: ShardJob | None = None
        self._size = WorkerSize(1)
        self._num_workers = 0
        self._workers: list[_Worker] = []
        self._deaths = Deaths()
        self._stats = EngineStats()  # of workers that are gone
        self._quiet_since = time.monotonic()  # no worker has been ready since then

    def run(
        self, tasks: Iterable[ShardTask], job: ShardJob, on_rows: OnRows, on_result: OnResult
    ) -> EngineStats:
        """As `ShardEngine.run`, but all tasks are drawn at once. Workers that live are used again
        by the next run of the job. Raises AltogetherError if the cluster has no room for a worker.
        """
        assert self._job in (None, job), "an engine does one job"
        self._job = job
        shards = HandOut(tasks)
        if shards:
            cluster = self._opened()
            self._quiet_since = time.monotonic()
            while self._hand_out(shards, cluster):
                heard = [worker for worker in self._workers if worker.listened_to]
                news = cluster.wait([worker.remote for worker in heard], _POLL_S)
                self._check_room(cluster)
                for remote, messages in news:
                    worker = next(worker for worker in heard if worker.remote is remote)
                    self._hear(worker, messages, shards, on_rows, on_result)
        total = EngineStats()
        total.add(self._stats)
        for worker in self._workers:
            total.add(worker.engine or EngineStats())
        return total

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._stack:  # leaves the cluster, which ends what is left
            if self._cluster is not None:
                for worker in self._workers:
                    if worker.process is None:
                        worker.remote.kill()
                    else:
                        worker.remote.stop()
                started = [worker.remote for worker in self._workers if worker.process is not None]
                self._cluster.wait_for_stop(started, STOP_S + 2.0)
        self._workers.clear()

    def _opened(self) -> Cluster:
        if self._cluster is None:
            self._cluster = self._stack.enter_context(self._connect())
            self._num_workers, self._size = plan_workers(
                self._cluster.nodes(), self._max_workers, self._threads, on_gpu=self._on_gpu
            )
            if self._max_workers is not None and self._num_workers < self._max_workers:
                self._note(
                    f"The cluster has room for {self._num_workers} workers of {self._size}, and "
                    f"--workers is {self._max_workers}."
                )
            self._deaths = Deaths(num_together=self._num_workers)
        return self._cluster

    def _hand_out(self, shards: HandOut, cluster: Cluster) -> bool:
        """Give a shard to each worker that has none, start those that are lacking; False at last.

        A worker that waits for room has no shard: others may be free before it begins.
        """
        for worker in self._workers:
            if worker.process is not None and worker.task is None:
                worker.task = shards.next()
                if worker.task is not None:
                    worker.remote.give(worker.task)
        num_starting = sum(worker.process is None for worker in self._workers)
        for _ in range(min(self._num_workers - len(self._workers), len(shards) - num_starting)):
            self._start(cluster)
        return bool(shards) or any(worker.task is not None for worker in self._workers)

    def _start(self, cluster: Cluster) -> None:
        assert self._job is not None
        taken = {worker.number for worker in self._workers}
        number = next(n for n in range(1, len(taken) + 2) if n not in taken)
        opening = self._open_captioner(self._size.threads)
        self._workers.append(_Worker(number, cluster.start(opening, self._job, self._size)))

    def _check_room(self, cluster: Cluster) -> None:
        """Without a worker: say so, or raise AltogetherError if there will be none."""
        now = time.monotonic()
        if any(worker.process is not None for worker in self._workers):
            self._quiet_since = now
        elif now - self._quiet_since >= _PATIENCE_S:
            self._quiet_since = now
            if not fitting(cluster.nodes(), self._size):
                raise AltogetherError(
                    f"no machine of the Ray cluster has room for a worker of {self._size} any "
                    "more: the captions so far are kept; add machines, then give the same command "
                    "to go on."
                )
            self._note(f"Waiting for room in the Ray cluster: a worker takes {self._size}.")

    def _hear(
        self,
        worker: _Worker,
        news: list[Message] | WorkerDied,
        shards: HandOut,
        on_rows: OnRows,
        on_result: OnResult,
    ) -> None:
        if isinstance(news, WorkerDied):
            cause = f" ({news})" if str(news) else ""
            self._bury(worker, f"{worker} died{cause}", shards)
            return
        for message in news:
            if isinstance(message, Bug):
                worker.remote.kill()
                self._bury(worker, f"{worker} failed with {message.message}", shards)
                return
            self._take(worker, message, on_rows, on_result)

    def _take(
        self, worker: _Worker, message: Message, on_rows: OnRows, on_result: OnResult
    ) -> None:
        if isinstance(message, Ready):
            worker.process = message.process
            self._deaths.note_ready()
        else:
            take_news(message, worker, self._deaths, on_rows, on_result)

    def _bury(self, worker: _Worker, how: str, shards: HandOut) -> None:
        """Put a dead worker's shard back; another worker is started when it is needed."""
        self._workers.remove(worker)
        self._stats.add(worker.engine or EngineStats())
        if worker.task is not None:
            shards.put_back(worker.task, worker.process)
        self._deaths.add(how, was_ready=worker.process is not None)
        if worker.task is not None:
            self._on_restart(
                f"{how}: another one is started, and goes on with {worker.task.shard.name}."
            )
        else:
            self._on_restart(f"{how}: another one is started.")
