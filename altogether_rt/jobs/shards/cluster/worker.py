"""A worker on some machine of a cluster: it is given shards, and asked what became of them.

It imports nothing of Ray: whoever runs it calls its methods, each of which answers soon.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from altogether_rt.captioner import open_captioner
from altogether_rt.data.sinks.shards.claims import ProcessId, this_process
from altogether_rt.data.sinks.shards.open_store import open_store
from altogether_rt.data.sinks.shards.stats import RowCounts
from altogether_rt.errors import AltogetherError, reason
from altogether_rt.jobs.executor import LocalExecutor, SupportsCaptions
from altogether_rt.jobs.shards.plan import ShardJob, ShardResult, ShardTask
from altogether_rt.jobs.shards.shard import caption_shard
from altogether_rt.jobs.worker import Failure, OpenCaptioner
from altogether_rt.monitoring.text import print_traceback
from altogether_rt.opening import ResolvedCaptioner

__all__ = ["STOP_S", "Bug", "ClusterWorker", "Message", "Ready", "open_on_node"]

#: Seconds for which a worker that has no news may be asked.
_NEWS_S = 1.0

#: Seconds in which a worker that is stopped makes its rows durable.
STOP_S = 8.0


@dataclass(frozen=True)
class Ready:
    """The captioner is open."""

    process: ProcessId


@dataclass(frozen=True)
class Bug:
    """The worker raised what it should not: it counts as dead."""

    message: str  # part of a sentence


Message = Ready | RowCounts | ShardResult | Failure | OSError | Bug


class ClusterWorker:
    """Captions the shards it is given, one after another, in a thread of its own."""

    def __init__(self, open_captioner: OpenCaptioner, job: ShardJob, threads: int) -> None:
        """threads: that decode images."""
        self._open_captioner = open_captioner
        self._job = dataclasses.replace(
            job, plan=dataclasses.replace(job.plan, read_threads=threads)
        )
        self._tasks: queue.SimpleQueue[ShardTask | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._messages: list[Message] = []
        self._made = RowCounts()  # rows that nobody was told of
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="captions", daemon=True)
        self._thread.start()

    def give(self, task: ShardTask) -> None:
        """Caption this shard when those given before are done."""
        self._tasks.put(task)

    def news(self) -> list[Message]:
        """What there is to tell since the last call; nothing if that takes a second."""
        with self._changed:
            self._changed.wait_for(lambda: self._messages, _NEWS_S)
            messages, self._messages = self._messages, []
            if self._made.rows:
                messages.insert(0, self._made)
                self._made = RowCounts()
            return messages

    def stop(self) -> None:
        """Make durable what there is, give the shard back and close the captioner."""
        self._stopped.set()
        self._tasks.put(None)
        self._thread.join(STOP_S)

    def _serve(self) -> None:
        try:
            self._caption()
        except KeyboardInterrupt:
            pass  # stopped
        except AltogetherError as error:
            self._tell(Failure(str(error)))
        except OSError as error:
            self._tell(OSError(error.errno, error.strerror or str(error), error.filename))
        except Exception as error:
            print_traceback(error)  # into the log of this machine
            self._tell(Bug(f"{type(error).__name__}: {reason(error)}"))

    def _caption(self) -> None:
        store = open_store(self._job.out)
        with self._open_captioner() as captioner:
            self._tell(Ready(this_process()))
            executor = LocalExecutor(captioner)
            while (task := self._tasks.get()) is not None and not self._stopped.is_set():
                self._tell(caption_shard(task, self._job, store, executor, self._count))

    def _tell(self, message: Message) -> None:
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()

    def _count(self, made: RowCounts) -> None:
        with self._changed:
            self._made.merge(made)
        if self._stopped.is_set():
            raise KeyboardInterrupt  # what Ctrl-C does to a run in one process


def open_on_node(
    captioner: ResolvedCaptioner, resolved_by: ProcessId, **execution: Any
) -> AbstractContextManager[SupportsCaptions]:
    """`open_captioner`, on a machine that may not be the one where `captioner` was resolved.

    execution: as `open_captioner` takes it. Raises AltogetherError if this machine has another
    captioner by the same name.
    """
    process = this_process()
    if (process.host, process.boot) != (resolved_by.host, resolved_by.boot):
        found = captioner.resolve_again()
        if found.bundle_id != captioner.bundle_id:
            raise AltogetherError(
                f"{captioner.name} on {process.host} is not the captioner of this run: put the "
                "same files on every machine."
            )
        captioner = found
    return open_captioner(captioner, **execution)
