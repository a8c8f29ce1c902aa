"""What runs in a worker process: shards come through a pipe, what became of them goes back."""

from __future__ import annotations

import _thread
import dataclasses
import os
import queue
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from altogether_rt.data.sinks.shards.open_store import open_store
from altogether_rt.data.sinks.shards.stats import RowCounts
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.executor import LocalExecutor
from altogether_rt.jobs.shards.plan import ShardJob, ShardTask
from altogether_rt.jobs.shards.shard import caption_shard
from altogether_rt.jobs.worker import READY, Failure, OpenCaptioner

__all__ = ["serve_shards"]

#: Seconds between two counts of rows that are sent.
_REPORT_S = 0.2

#: Seconds in which a worker whose caller is gone makes its rows durable.
_EXIT_S = 8.0


def serve_shards(
    connection: Connection[Any, Any],
    open_captioner: OpenCaptioner,
    job: ShardJob,
    read_threads: int | None,
) -> None:
    """What a worker does: caption shards until there are no more, or its caller is gone."""
    tasks: queue.SimpleQueue[ShardTask | None] = queue.SimpleQueue()
    receive = threading.Thread(
        target=_receive, args=(connection, tasks), name="receive", daemon=True
    )
    job = dataclasses.replace(job, plan=dataclasses.replace(job.plan, read_threads=read_threads))
    with suppress(BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        receive.start()
        try:
            _serve(connection, open_captioner, job, tasks)
        except AltogetherError as error:
            connection.send(Failure(str(error)))
        except OSError as error:
            connection.send(OSError(error.errno, error.strerror or str(error), error.filename))


def _serve(
    connection: Connection[Any, Any],
    open_captioner: OpenCaptioner,
    job: ShardJob,
    tasks: queue.SimpleQueue[ShardTask | None],
) -> None:
    store = open_store(job.out)
    with open_captioner() as captioner:
        connection.send(READY)
        executor = LocalExecutor(captioner)
        while (task := tasks.get()) is not None:
            counter = _Counter(connection)
            result = caption_shard(task, job, store, executor, counter.add)
            counter.send()
            connection.send(result)


class _Counter:
    """Adds up what is said of rows and sends it now and then."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._made = RowCounts()
        self._sent = time.monotonic()

    def add(self, made: RowCounts) -> None:
        self._made.merge(made)
        if time.monotonic() - self._sent >= _REPORT_S:
            self.send()

    def send(self) -> None:
        if self._made.rows:
            self._connection.send(self._made)
            self._made = RowCounts()
        self._sent = time.monotonic()


def _receive(connection: Connection[Any, Any], tasks: queue.SimpleQueue[ShardTask | None]) -> None:
    try:
        while (task := connection.recv()) is not None:
            tasks.put(task)
        tasks.put(None)
    except (EOFError, OSError):  # nobody waits for the rest: keep what there is
        tasks.put(None)
        _thread.interrupt_main()
        time.sleep(_EXIT_S)
        os._exit(1)
