"""Captioning in several processes, each with a captioner of its own.

Workers are spawned, not forked: a process with open sessions must not be forked. A worker gets as
many tasks as keep it busy, and none far beyond the oldest task without an answer, so memory stays
bounded however slow one of them is. Workers write nothing: the caller's process emits what they
answer, in the order of tasks.

A worker that dies is started again and its tasks are done again. A task that was in two such deaths
is given to a worker alone; if it ends a fresh worker all by itself, it is answered with an error.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from altogether_rt.captions import Answer
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.generation.engine import EngineStats
from altogether_rt.jobs.backlog import Backlog
from altogether_rt.jobs.executor import Executor
from altogether_rt.jobs.interrupts import sigint_blocked
from altogether_rt.jobs.plan import CaptionPlan, Emit, Task, Tasks
from altogether_rt.jobs.worker import READY, Failure, OpenCaptioner, serve

__all__ = ["ProcessExecutor", "how_it_died"]

#: Tasks that one worker has at a time, besides four for each of its slots.
_TASKS_READ = 32

#: Tasks handed out beyond the oldest without an answer, as a multiple of what all workers hold.
_MAX_AHEAD = 4

#: Seconds that a worker which has sent everything may take to exit.
_EXIT_S = 10.0

#: Deaths in a row that end the run: of workers that never became ready, or by tasks alone.
_MAX_DEATHS = 3
_MAX_CRASHES = 5

#: Seconds between two looks for samples of a live source while workers are busy.
_POLL_S = 0.02


@dataclass
class _Worker:
    number: int  # counted from 1
    process: BaseProcess
    connection: Connection[Any, Any]
    outstanding: dict[int, Task] = field(default_factory=dict)  # handed out and not answered
    ready: bool = False
    fresh: bool = True  # has answered nothing yet
    alone: bool = False  # has one suspect task and gets no other
    dismissed: bool = False  # knows that nothing else will come

    def send(self, message: Task | None) -> None:
        """A broken pipe is left to `receive`, which finds that the worker is dead."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def dismiss(self) -> None:
        """Tell it that nothing else will come; it answers what it has, and leaves."""
        if not self.dismissed:
            self.send(None)
            self.dismissed = True

    def receive(self) -> Any:
        """What the worker sent; None if it is dead."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            return None


def how_it_died(number: int, process: BaseProcess) -> str:
    """What ended a worker, the start of a sentence."""
    process.join(_EXIT_S)
    code = process.exitcode
    if code is None or code >= 0:
        return f"worker {number} ended with status {code}"
    memory = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
    return f"worker {number} was killed by signal {-code} ({signal.strsignal(-code)}){memory}"


class ProcessExecutor(Executor):
    """Captions tasks with `num_workers` processes."""

    def __init__(
        self,
        num_workers: int,
        open_captioner: OpenCaptioner,
        bundle_id: str,
        *,
        slots: int,
        read_threads: int | None = None,
        on_restart: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """open_captioner: called in each worker. slots: captions that each generates at once.

        read_threads: that decode images in each. on_restart: told of each worker that died.
        """
        self.num_workers = num_workers
        self._bundle_id = bundle_id
        self._open_captioner = open_captioner
        self._max_tasks = _TASKS_READ + 4 * slots
        self._read_threads = read_threads
        self._on_restart = on_restart

    @property
    def bundle_id(self) -> str:
        return self._bundle_id

    def run(self, tasks: Tasks, plan: CaptionPlan, emit: Emit) -> EngineStats:
        """As `Executor.run`; the indices of tasks count from 0.

        Raises AltogetherError if a worker cannot open its captioner, or workers die again and
        again. The others are ended then, as they are by any exception.
        """
        plan = dataclasses.replace(
            plan, read_threads=self._read_threads, num_processes=self.num_workers
        )
        window = _MAX_AHEAD * self._max_tasks * self.num_workers
        with ExitStack() as stack:
            run = _Run(self, stack, plan, Backlog(tasks, window), emit)
            run.start_workers()
            run.answer_all()
            return run.stats


class _Run:
    """The state of one `ProcessExecutor.run`."""

    def __init__(
        self,
        executor: ProcessExecutor,
        stack: ExitStack,
        plan: CaptionPlan,
        backlog: Backlog,
        emit: Emit,
    ) -> None:
        self._executor = executor
        self._stack = stack
        self._plan = plan
        self._backlog = backlog
        self._emit = emit
        self._workers: dict[Connection[Any, Any], _Worker] = {}
        self._answers: dict[int, Answer] = {}  # that came before those of earlier tasks
        self._next_index = 0
        self._deaths_before_ready = 0  # in a row
        self._crashes = 0  # tasks in a row that ended a worker alone
        self.stats = EngineStats()  # of workers that are done

    def start_workers(self) -> None:
        count = self._backlog.at_least(self._executor.num_workers)
        for number in range(1, max(1, count) + 1):  # none without anything to do
            self._start(number)

    def answer_all(self) -> None:
        """Hand out tasks and emit answers until every task has one and every worker has left."""
        while self._workers:
            self._hand_out()
            timeout = None if self._backlog.exhausted else _POLL_S
            for connection in wait(list(self._workers), timeout):
                worker = self._workers[connection]  # type: ignore[index]
                message = worker.receive()
                if message is None:
                    self._bury(worker)
                else:
                    self._take(worker, message)
            self._release()

    def _hand_out(self) -> None:
        """Give every worker what it may have, and word when there is nothing left to give."""
        while (worker := self._next_worker()) is not None:
            alone = self._backlog.has_suspects
            if alone and worker.outstanding:
                return  # until one of them has nothing else
            all_idle = not any(worker.outstanding for worker in self._workers.values())
            task = self._backlog.next(self._next_index, wait=all_idle)
            if task is None:
                break
            worker.alone = alone
            worker.outstanding[task.index] = task
            worker.send(task)
        if self._backlog.finished:
            for worker in self._workers.values():
                worker.dismiss()

    def _next_worker(self) -> _Worker | None:
        """The worker with the fewest tasks, if it may have another one."""
        willing = (w for w in self._workers.values() if not (w.alone or w.dismissed))
        worker = min(willing, key=lambda worker: len(worker.outstanding), default=None)
        if worker is None or len(worker.outstanding) >= self._executor._max_tasks:
            return None
        return worker

    def _take(self, worker: _Worker, message: Any) -> None:
        if message == READY:
            worker.ready = True
            self._deaths_before_ready = 0
        elif isinstance(message, Failure):
            raise AltogetherError(message.message)
        elif isinstance(message, EngineStats):
            self.stats.add(message)
            del self._workers[worker.connection]
            worker.process.join(_EXIT_S)
        else:
            index, answer = message
            del worker.outstanding[index]
            worker.fresh = worker.alone = False
            self._crashes = 0
            self._answers[index] = answer

    def _release(self) -> None:
        while self._next_index in self._answers:
            self._emit(self._next_index, self._answers.pop(self._next_index))
            self._next_index += 1

    def _bury(self, worker: _Worker) -> None:
        """Start a dead worker again, unless it had answered everything; its tasks are put back."""
        how = how_it_died(worker.number, worker.process)
        del self._workers[worker.connection]
        worker.connection.close()
        tasks = list(worker.outstanding.values())
        if worker.dismissed and not tasks:
            return
        if not worker.ready:
            self._deaths_before_ready += 1
            self._backlog.put_back(tasks)
        elif worker.fresh and worker.alone:
            self._crashes += 1
            (task,) = tasks
            message = f"{task.sample.key} cannot be captioned: {how} when it was given it alone."
            self._answers[task.index] = ImageError("crashed", message)
        else:
            self._backlog.put_back_after_death(tasks)
        if self._deaths_before_ready >= _MAX_DEATHS or self._crashes >= _MAX_CRASHES:
            raise AltogetherError(
                f"{how}, and so did those before it: the captions so far are kept; free some "
                "memory or use fewer workers, then give the same command to go on."
            )
        self._executor._on_restart(f"{how}: it is started again, and its images are done again.")
        self._start(worker.number)

    def _start(self, number: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        with sigint_blocked():  # Ctrl-C is for this process, which ends the workers
            process = spawn.Process(
                target=serve,
                args=(theirs, self._executor._open_captioner, self._plan),
                name=f"altogether-rt worker {number}",
                daemon=True,
            )
            process.start()
        theirs.close()  # only the worker holds it, so that its death is noticed
        self._stack.callback(process.join)
        self._stack.callback(process.kill)
        self._workers[ours] = _Worker(number, process, ours)
