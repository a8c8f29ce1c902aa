"""The contract of an executor, and the one that captions in this process.

    tasks ─▶ read (threads, a bounded number ahead) ─▶ captioner ─▶ answers, in the order of tasks

Reading overlaps with captioning, and memory does not grow with the number of tasks.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from altogether_rt.captions import Caption, CaptionParams, CaptionRequest
from altogether_rt.data.quiet import QuietPillow
from altogether_rt.errors import ImageError
from altogether_rt.generation.engine import EngineStats
from altogether_rt.generation.requests import RequestSource
from altogether_rt.jobs.answers import OrderedAnswers
from altogether_rt.jobs.plan import CaptionPlan, Emit, Preprocesses, Task, Tasks

__all__ = ["Executor", "LocalExecutor", "SupportsCaptions", "caption_tasks"]

#: Images (150 kB each at 224 px) read before the captioner asks for them; at least two batches.
_READ_AHEAD = 32

#: Tasks that are answered without the captioner before it goes on with its own work.
_MAX_ANSWERED_AT_ONCE = 64

#: A thread is given as many tasks at once as it reads in this time, at most so many.
_READ_S = 0.008
_MAX_READ_AT_ONCE = 32
#: Threads that are given so many at once, of 0.5 ms or less each, take turns.
_TINY_AT_ONCE = 16


class SupportsCaptions(Preprocesses, Protocol):
    """What captioning tasks needs of a `Captioner`."""

    stats: EngineStats

    @property
    def bundle_id(self) -> str: ...
    def stream(
        self,
        requests: Iterable[CaptionRequest],
        params: CaptionParams | None = None,
        *,
        keep_embeddings: bool = False,
    ) -> Iterator[Caption]: ...


class Executor(ABC):
    """Captions tasks somewhere: in this process, in several, on a cluster."""

    @property
    @abstractmethod
    def bundle_id(self) -> str:
        """Identifies the captioner; rows carry it."""

    @abstractmethod
    def run(self, tasks: Tasks, plan: CaptionPlan, emit: Emit) -> EngineStats:
        """Call `emit` with the index and the answer of each task, in the order of tasks.

        An image that cannot be captioned is answered with an ImageError. Returns what the engines
        did. Raises AltogetherError if captioning cannot go on.
        """


class LocalExecutor(Executor):
    """Captions with one captioner, in this process."""

    def __init__(self, captioner: SupportsCaptions) -> None:
        self._captioner = captioner

    @property
    def bundle_id(self) -> str:
        return self._captioner.bundle_id

    def run(self, tasks: Tasks, plan: CaptionPlan, emit: Emit) -> EngineStats:
        caption_tasks(tasks, self._captioner, plan, emit)
        return self._captioner.stats


def caption_tasks(tasks: Tasks, captioner: SupportsCaptions, plan: CaptionPlan, emit: Emit) -> None:
    """Call `emit` with each task's index and its answer, in the order of the tasks.

    Tasks with the same image and the same alt-texts have the same caption: it is generated once.
    """
    answers = OrderedAnswers(emit)
    read = plan.reader(captioner)
    with _TaskRequests(tasks, read, answers, plan.num_read_threads) as requests:
        for caption in captioner.stream(
            requests, plan.params, keep_embeddings=plan.keep_embeddings
        ):
            answers.resolve(caption)


class _TaskRequests(RequestSource):
    """Reads tasks with threads; those that need no captioner are answered on the way.

    A thread is given several tasks at once where each takes little time, as in shards of small
    images: handing one over costs as much as decoding it. Such threads also take turns. What they
    do is mostly Python, of which two can do no more than one.
    """

    def __init__(
        self,
        tasks: Tasks,
        read: Callable[[Task], CaptionRequest],
        answers: OrderedAnswers,
        num_threads: int,
    ) -> None:
        self._tasks = tasks
        self._read = read
        self._answers = answers
        self._ahead: deque[Future[_Read]] = deque()
        self._num_ahead = 0  # tasks in them
        self._done: deque[tuple[Task, CaptionRequest | Exception]] = deque()
        self._at_once = 1
        self._turn = threading.Lock()  # for images so small that threads only hinder each other
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="read")

    def take(self, max_requests: int, wait: bool) -> list[CaptionRequest] | None:
        requests: list[CaptionRequest] = []
        for _ in range(max_requests + _MAX_ANSWERED_AT_ONCE):
            wait = wait and not requests
            if not self._done and not self._collect(max_requests, wait):
                break
            request = self._settle(*self._done.popleft())
            if request is not None:
                requests.append(request)
                if len(requests) == max_requests:
                    break
        if not requests and not self._ahead and not self._done and self._tasks.finished:
            return None
        return requests

    def _collect(self, max_requests: int, wait: bool) -> bool:
        """Take over the oldest tasks that were handed out; returns whether they have been read."""
        self._read_ahead(max(_READ_AHEAD, 2 * max_requests, 2 * self._at_once), wait)
        if not self._ahead or not (wait or self._ahead[0].done()):
            return False
        read = self._ahead.popleft().result()
        self._num_ahead -= len(read.results)
        self._done.extend(read.results)
        self._at_once = read.worth_at_once
        return True

    def _read_ahead(self, max_ahead: int, wait: bool) -> None:
        while self._num_ahead < max_ahead and not self._tasks.finished:
            tasks: list[Task] = []
            while len(tasks) < self._at_once:
                task = self._tasks.get(wait and not self._ahead and not tasks)
                if task is None:
                    break
                tasks.append(task)
            if not tasks:
                return
            self._num_ahead += len(tasks)
            turn = self._turn if self._at_once >= _TINY_AT_ONCE else nullcontext()
            self._ahead.append(self._pool.submit(_read_all, tasks, self._read, turn))

    def _settle(self, task: Task, read: CaptionRequest | Exception) -> CaptionRequest | None:
        """The request for the captioner, if the task needs one."""
        if isinstance(read, ImageError):
            self._answers.add(task, read)
            return None
        if isinstance(read, Exception):
            raise read
        return read if self._answers.needs_captioner(task, read) else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Read:
    """Tasks that one thread read, and what became of each."""

    results: list[tuple[Task, CaptionRequest | Exception]]
    seconds: float

    @property
    def worth_at_once(self) -> int:
        """Tasks that a thread should be given at once, if the next ones take as long as these."""
        each = max(self.seconds / len(self.results), 1e-9)
        return max(1, min(_MAX_READ_AT_ONCE, int(_READ_S / each)))


def _read_all(
    tasks: list[Task],
    read: Callable[[Task], CaptionRequest],
    turn: AbstractContextManager[object],
) -> _Read:
    results: list[tuple[Task, CaptionRequest | Exception]] = []
    with turn, QuietPillow():  # once for all: each image that is opened asks for it again
        start = time.perf_counter()
        for task in tasks:
            try:
                results.append((task, read(task)))
            except Exception as error:  # raised, or answered, when it is this task's turn
                results.append((task, error))
        return _Read(results, time.perf_counter() - start)
