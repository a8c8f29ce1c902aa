"""The contract of an executor, and the one that captions in this process.

    tasks ─▶ read (threads, a bounded number ahead) ─▶ captioner ─▶ answers, in the order of tasks

Reading overlaps with captioning, and memory does not grow with the number of tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol, Self

from altogether_rt.captions import Caption, CaptionParams, CaptionRequest
from altogether_rt.errors import ImageError
from altogether_rt.generation.engine import EngineStats
from altogether_rt.generation.requests import RequestSource
from altogether_rt.jobs.answers import OrderedAnswers
from altogether_rt.jobs.plan import CaptionPlan, Emit, Preprocesses, Task, Tasks
from altogether_rt.machine.limits import available_cores

__all__ = ["Executor", "LocalExecutor", "SupportsCaptions", "caption_tasks"]

#: Images (150 kB each at 224 px) read before the captioner asks for them; at least two batches.
_READ_AHEAD = 32

#: Tasks that are answered without the captioner before it goes on with its own work.
_MAX_ANSWERED_AT_ONCE = 64

_MAX_READ_THREADS = 4


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
    threads = plan.read_threads or available_cores()
    read = plan.reader(captioner)
    with _TaskRequests(tasks, read, answers, min(_MAX_READ_THREADS, threads)) as requests:
        for caption in captioner.stream(
            requests, plan.params, keep_embeddings=plan.keep_embeddings
        ):
            answers.resolve(caption)


class _TaskRequests(RequestSource):
    """Reads tasks with threads; those that need no captioner are answered on the way."""

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
        self._ahead: deque[tuple[Task, Future[CaptionRequest]]] = deque()
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="read")

    def take(self, max_requests: int, wait: bool) -> list[CaptionRequest] | None:
        requests: list[CaptionRequest] = []
        for _ in range(max_requests + _MAX_ANSWERED_AT_ONCE):
            wait = wait and not requests
            self._read_ahead(max(_READ_AHEAD, 2 * max_requests), wait)
            if not self._ahead or not (wait or self._ahead[0][1].done()):
                break
            request = self._settle(*self._ahead.popleft())
            if request is not None:
                requests.append(request)
                if len(requests) == max_requests:
                    break
        if not requests and not self._ahead and self._tasks.finished:
            return None
        return requests

    def _read_ahead(self, max_ahead: int, wait: bool) -> None:
        while len(self._ahead) < max_ahead and not self._tasks.finished:
            task = self._tasks.get(wait and not self._ahead)
            if task is None:
                return
            self._ahead.append((task, self._pool.submit(self._read, task)))

    def _settle(self, task: Task, reading: Future[CaptionRequest]) -> CaptionRequest | None:
        """The request for the captioner, if the task needs one."""
        try:
            request = reading.result()
        except ImageError as error:
            self._answers.add(task, error)
            return None
        return request if self._answers.needs_captioner(task, request) else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
