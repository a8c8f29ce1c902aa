"""What runs in a worker process: tasks come through a pipe, answers go back through it."""

from __future__ import annotations

import os
import queue
import sys
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal, Protocol

from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.executor import SupportsCaptions, caption_tasks
from altogether_rt.jobs.plan import CaptionPlan, Task
from altogether_rt.monitoring.text import print_traceback

__all__ = ["READY", "Failure", "OpenCaptioner", "serve"]

#: A worker's word that its captioner is open.
READY: Literal["ready"] = "ready"


class OpenCaptioner(Protocol):
    """Opens a captioner in a worker. It is pickled: a module's function, or a partial of one."""

    def __call__(self) -> AbstractContextManager[SupportsCaptions]: ...


@dataclass
class Failure:
    """Why a worker cannot caption; raised in the caller's process."""

    message: str


def serve(
    connection: Connection[Any, Any], open_captioner: OpenCaptioner, plan: CaptionPlan
) -> None:
    """What a worker does: answer tasks, then send its engine's counts, or why it failed."""
    tasks = _ReceivedTasks(connection)
    try:
        with open_captioner() as captioner:
            connection.send(READY)
            caption_tasks(
                tasks, captioner, plan, lambda index, answer: connection.send((index, answer))
            )
            connection.send(captioner.stats)
    except AltogetherError as error:
        connection.send(Failure(str(error)))
    except (BrokenPipeError, ConnectionResetError):
        pass  # the caller is gone
    except Exception as error:  # a bug: `multiprocessing` would print its message as it is
        print_traceback(error)
        sys.exit(1)


class _ReceivedTasks:
    """Tasks from the caller, drawn from the pipe at once so that sending never blocks."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self.finished = False
        self._connection = connection
        self._queue: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        threading.Thread(target=self._receive, name="receive", daemon=True).start()

    def get(self, wait: bool) -> Task | None:
        try:
            task = self._queue.get(block=wait)
        except queue.Empty:
            return None
        self.finished = task is None
        return task

    def _receive(self) -> None:
        task: Task | None
        try:
            while (task := self._connection.recv()) is not None:
                self._queue.put(task)
        except (EOFError, OSError):
            os._exit(1)  # the caller died: nobody waits for the rest
        self._queue.put(None)
