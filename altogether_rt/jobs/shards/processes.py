"""Shards captioned by several processes, each with a captioner of its own.

Workers read, caption and write by themselves: only the names of shards and counts of rows pass
through pipes. A worker that dies is started again, and its shard is given to the next one that is
free, which goes on from the durable rows; what the death means for the shard is `care`'s matter.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

from altogether_rt.generation.engine import EngineStats
from altogether_rt.jobs.interrupts import sigint_blocked
from altogether_rt.jobs.processes import how_it_died
from altogether_rt.jobs.shards.engine import OnResult, OnRows, ShardEngine
from altogether_rt.jobs.shards.handout import Deaths, take_news
from altogether_rt.jobs.shards.plan import ShardJob, ShardTask
from altogether_rt.jobs.shards.worker import serve_shards
from altogether_rt.jobs.worker import READY, OpenCaptioner

__all__ = ["ProcessShardEngine"]

#: Seconds that a worker which has nothing to do may take to exit.
_EXIT_S = 10.0


@dataclass
class _Worker:
    number: int  # counted from 1
    process: BaseProcess
    connection: Connection[Any, Any]
    task: ShardTask | None = None
    ready: bool = False
    engine: EngineStats | None = None  # what its captioner did

    def send(self, message: ShardTask | None) -> None:
        """A broken pipe is left to `receive`, which finds that the worker is dead."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def receive(self) -> Any:
        """What the worker sent; None if it is dead."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            return None


class ProcessShardEngine(ShardEngine):
    """Captions shards with `num_workers` processes, which live until the block is left."""

    def __init__(
        self,
        num_workers: int,
        open_captioner: OpenCaptioner,
        *,
        read_threads: int | None = None,
        on_restart: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """open_captioner: called in each worker. read_threads: that decode images in each.

        on_restart: told of each worker that died.
        """
        self._num_workers = num_workers
        self._open_captioner = open_captioner
        self._read_threads = read_threads
        self._on_restart = on_restart
        self._workers: dict[Connection[Any, Any], _Worker] = {}
        self._stack = ExitStack()
        self._job: ShardJob | None = None
        self._again: deque[ShardTask] = deque()  # of workers that died
        self._deaths = Deaths()
        self._stats = EngineStats()  # of workers that are gone

    def run(
        self, tasks: Iterable[ShardTask], job: ShardJob, on_rows: OnRows, on_result: OnResult
    ) -> EngineStats:
        """As `ShardEngine.run`. Workers that live are used again by the next run of the job."""
        assert self._job in (None, job), "an engine does one job"
        self._job = job
        pending = iter(tasks)
        while True:
            self._hand_out(pending)
            busy = [c for c, worker in self._workers.items() if worker.task is not None]
            if not busy:
                break
            for connection in wait(list(self._workers)):
                worker = self._workers[connection]  # type: ignore[index]
                message = worker.receive()
                if message is None:
                    self._bury(worker)
                else:
                    self._take(worker, message, on_rows, on_result)
        total = EngineStats()
        total.add(self._stats)
        for worker in self._workers.values():
            total.add(worker.engine or EngineStats())
        return total

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            for worker in self._workers.values():
                worker.send(None)
            for worker in self._workers.values():
                worker.process.join(_EXIT_S)
        else:
            self._interrupt()
        self._stack.close()  # kills those that are left
        self._workers.clear()

    def _interrupt(self) -> None:
        """Let the workers make durable what they have."""
        for worker in self._workers.values():
            worker.connection.close()
        deadline = time.monotonic() + _EXIT_S
        for worker in self._workers.values():
            worker.process.join(max(0.0, deadline - time.monotonic()))

    def _hand_out(self, pending: Iterator[ShardTask]) -> None:
        """Give a shard to each worker that has none; workers are started as they are needed."""
        free = deque(worker for worker in self._workers.values() if worker.task is None)
        while free or len(self._workers) < self._num_workers:
            task = self._again.popleft() if self._again else next(pending, None)
            if task is None:
                return
            worker = free.popleft() if free else self._start()
            worker.task = task
            worker.send(task)

    def _take(self, worker: _Worker, message: Any, on_rows: OnRows, on_result: OnResult) -> None:
        if message == READY:
            worker.ready = True
            self._deaths.note_ready()
        else:
            take_news(message, worker, self._deaths, on_rows, on_result)

    def _bury(self, worker: _Worker) -> None:
        """Put a dead worker's shard back; another worker is started when it is needed."""
        how = how_it_died(worker.number, worker.process)
        del self._workers[worker.connection]
        worker.connection.close()
        self._stats.add(worker.engine or EngineStats())
        self._deaths.add(how, was_ready=worker.ready)
        if worker.task is not None:
            self._again.append(worker.task)
            shard = worker.task.shard.name
            self._on_restart(f"{how}: it is started again, and goes on with {shard}.")

    def _start(self) -> _Worker:
        number = 1 + min(set(range(self._num_workers)) - {w.number - 1 for w in self._live()})
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        with sigint_blocked():  # Ctrl-C is for this process, which ends the workers
            process = spawn.Process(
                target=serve_shards,
                args=(theirs, self._open_captioner, self._job, self._read_threads),
                name=f"altogether-rt worker {number}",
                daemon=True,
            )
            process.start()
        theirs.close()  # only the worker holds it, so that its death is noticed
        self._stack.callback(process.join)
        self._stack.callback(process.kill)
        worker = self._workers[ours] = _Worker(number, process, ours)
        return worker

    def _live(self) -> list[_Worker]:
        return list(self._workers.values())
