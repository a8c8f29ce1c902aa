"""A stand-in executor: a captioner for each of several threads, answers put back in order."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from altogether_rt.captions import Answer
from altogether_rt.generation.engine import EngineStats
from altogether_rt.jobs.executor import Executor, SupportsCaptions, caption_tasks
from altogether_rt.jobs.plan import CaptionPlan, Emit, ListedTasks, Task, Tasks


class ThreadExecutor(Executor):
    def __init__(self, num_threads: int, open_captioner: Callable[[], SupportsCaptions]) -> None:
        self._captioners = [open_captioner() for _ in range(num_threads)]

    @property
    def bundle_id(self) -> str:
        return self._captioners[0].bundle_id

    def run(self, tasks: Tasks, plan: CaptionPlan, emit: Emit) -> EngineStats:
        listed: list[Task] = []
        while (task := tasks.get(wait=True)) is not None:
            listed.append(task)
        answers: dict[int, Answer] = {}

        def work(number: int) -> None:
            part = ListedTasks(listed[number :: len(self._captioners)])
            caption_tasks(part, self._captioners[number], plan, answers.__setitem__)

        with ThreadPoolExecutor(len(self._captioners)) as pool:
            list(pool.map(work, range(len(self._captioners))))
        for index in range(len(listed)):
            emit(index, answers[index])
        stats = EngineStats()
        for captioner in self._captioners:
            stats.add(captioner.stats)
        return stats
