"""Several processes that caption: each has a captioner of its own, and one of them, the caller's,
writes down what they answer, in the order of the tasks.

A worker is started afresh (spawned), for a process with open sessions must not be forked. It is
given no more tasks than keep it busy, and nothing is handed out far ahead of the oldest task that
has no answer, so that memory stays bounded whoever is slow. It writes nothing itself: whatever
kills it, or the caller, what was answered stands and the rest is still to do.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from altogether_rt.errors import AltogetherError
from altogether_rt.generation.engine import EngineStats
from altogether_rt.jobs.tasks import Answer, CaptionPlan, SupportsCaptions, Task, caption_tasks

__all__ = ["OpenCaptioner", "WorkerPool"]

#: Tasks that one worker has at a time, besides four for each of its slots.
_TASKS_READ = 32

#: Tasks handed out beyond the oldest without an answer, in what all workers have at a time.
_MOST_AHEAD = 4

#: Seconds that a worker which has sent everything may take to leave.
_LEAVING_S = 10.0


class OpenCaptioner(Protocol):
    """Opens a captioner in a worker; sent there, so a function of a module or a partial of one."""

    def __call__(self) -> AbstractContextManager[SupportsCaptions]: ...


@dataclass
class _Worker:
    number: int  # counted from 1
    process: BaseProcess
    connection: Connection[Any, Any]
    num_tasks: int = 0  # handed out and not answered

    def send(self, message: Task | None) -> None:
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise self.died() from None

    def receive(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise self.died() from None

    def died(self) -> AltogetherError:
        """What to tell the user."""
        self.process.join(_LEAVING_S)
        code = self.process.exitcode
        if code is not None and code < 0:
            how = f"was killed by signal {-code} ({signal.strsignal(-code)})"
            how += ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        else:
            how = f"ended with status {code}"
        return AltogetherError(
            f"worker {self.number} {how}: the captions so far are kept, give the same command to "
            "go on."
        )


class _Waiting:
    """Tasks that no worker has yet."""

    def __init__(self, tasks: Iterator[Task]) -> None:
        self.num_drawn = 0
        self.exhausted = False
        self._tasks = tasks

    def draw(self) -> Task | None:
        task = next(self._tasks, None)
        self.exhausted = task is None
        self.num_drawn += 1
        return task


class WorkerPool:
    """Captions tasks with `num` processes."""

    def __init__(
        self,
        num: int,
        open_captioner: OpenCaptioner,
        bundle_id: str,
        *,
        slots: int,
        read_threads: int | None = None,
    ) -> None:
        """open_captioner: called in each worker. slots: captions that each writes at once.

        read_threads: that decode images in each.
        """
        self.num = num
        self.bundle_id = bundle_id
        self._open_captioner = open_captioner
        self._most_tasks = _TASKS_READ + 4 * slots
        self._read_threads = read_threads

    def caption(
        self, tasks: Iterable[Task], plan: CaptionPlan, emit: Callable[[int, Answer], None]
    ) -> EngineStats:
        """Calls `emit` with the index and the answer of each task, in order: 0, 1, 2, …

        Returns what the workers' engines did. Raises AltogetherError if a worker dies or cannot
        open its captioner; the others are ended then, as they are by any exception.
        """
        stats = EngineStats()
        answers: dict[int, Answer] = {}  # that came before those of earlier tasks
        next_index = 0
        waiting = _Waiting(iter(tasks))
        plan = dataclasses.replace(plan, read_threads=self._read_threads)
        with self._started(plan) as workers:
            busy = {worker.connection: worker for worker in workers}
            while busy:
                window = next_index + _MOST_AHEAD * self._most_tasks * self.num
                self._hand_out(waiting, window, list(busy.values()))
                for connection in wait(list(busy)):
                    worker = busy[connection]  # type: ignore[index]
                    message = worker.receive()
                    if isinstance(message, EngineStats):
                        stats.add(message)
                        del busy[worker.connection]
                    elif isinstance(message, str):
                        raise AltogetherError(message)
                    else:
                        index, answer = message
                        answers[index] = answer
                        worker.num_tasks -= 1
                while next_index in answers:
                    emit(next_index, answers.pop(next_index))
                    next_index += 1
        return stats

    def _hand_out(self, waiting: _Waiting, window: int, workers: list[_Worker]) -> None:
        """Gives every worker what it may have, and word when there is nothing left to give."""
        while not waiting.exhausted and waiting.num_drawn < window:
            worker = min(workers, key=lambda worker: worker.num_tasks)
            if worker.num_tasks >= self._most_tasks:
                return
            task = waiting.draw()
            if task is not None:
                worker.send(task)
                worker.num_tasks += 1
            else:
                for worker in workers:
                    worker.send(None)

    @contextmanager
    def _started(self, plan: CaptionPlan) -> Iterator[list[_Worker]]:
        """The workers, which are gone when the block is left."""
        spawn = multiprocessing.get_context("spawn")
        workers: list[_Worker] = []
        with ExitStack() as stack:
            with _sigint_blocked():  # Ctrl-C is for this process, which ends them
                for number in range(1, self.num + 1):
                    ours, theirs = spawn.Pipe()
                    process = spawn.Process(
                        target=_serve,
                        args=(theirs, self._open_captioner, plan),
                        name=f"altogether-rt worker {number}",
                        daemon=True,
                    )
                    process.start()
                    theirs.close()  # so that only the worker holds it, and its death is noticed
                    stack.callback(process.join)
                    stack.callback(process.kill)
                    workers.append(_Worker(number, process, ours))
            yield workers
            for worker in workers:
                worker.process.join(_LEAVING_S)


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """What is started meanwhile never sees Ctrl-C; for this process it is only put off."""
    resource_tracker.ensure_running()  # which would unblock it if the first worker started it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    connection: Connection[Any, Any], open_captioner: OpenCaptioner, plan: CaptionPlan
) -> None:
    """A worker's life: answers, then its engine's counts; or one sentence that says what failed."""
    tasks = _ReceivedTasks(connection)
    try:
        with open_captioner() as captioner:
            caption_tasks(
                tasks, captioner, plan, lambda index, answer: connection.send((index, answer))
            )
            connection.send(captioner.stats)
    except AltogetherError as error:
        connection.send(str(error))
    except (BrokenPipeError, ConnectionResetError):
        pass  # the caller is gone


class _ReceivedTasks:
    """Tasks that the caller sends; drawn from the pipe at once, so that it never waits for us."""

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
