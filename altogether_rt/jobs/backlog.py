"""Tasks that no worker has: new ones, those of workers that died, and suspects among these."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from altogether_rt.jobs.plan import Task, Tasks

__all__ = ["Backlog"]

#: A task in so many deaths of workers is suspected to be their cause.
_DEATHS_OF_A_SUSPECT = 2


class Backlog:
    """Suspects first, then tasks to do again, then new ones within a window."""

    def __init__(self, tasks: Tasks, window: int) -> None:
        """window: new tasks are drawn only this far beyond the oldest without an answer."""
        self._tasks = tasks
        self._window = window
        self._again: deque[Task] = deque()
        self._suspects: deque[Task] = deque()
        self._deaths: Counter[int] = Counter()  # by index of task
        self._num_drawn = 0

    @property
    def exhausted(self) -> bool:
        """Whether no new task will come."""
        return self._tasks.finished

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to hand out."""
        return self._tasks.finished and not self._again and not self._suspects

    @property
    def has_suspects(self) -> bool:
        """Whether the next task must be given to a worker that has nothing else."""
        return bool(self._suspects)

    def at_least(self, count: int) -> int:
        """`count`, or how many tasks there are if they are fewer; before the first is taken."""
        while len(self._again) < count:
            task = self._tasks.get(wait=False)
            if task is None:
                break
            self._num_drawn += 1
            self._again.append(task)
        return len(self._again) if self._tasks.finished else count

    def next(self, oldest: int, wait: bool) -> Task | None:
        """The next task; None if there is none now.

        oldest: index of the oldest task without an answer. wait: for one to come.
        """
        if self._suspects:
            return self._suspects.popleft()
        if self._again:
            return self._again.popleft()
        if self._tasks.finished or self._num_drawn >= oldest + self._window:
            return None
        task = self._tasks.get(wait)
        self._num_drawn += task is not None
        return task

    def put_back(self, tasks: Iterable[Task]) -> None:
        """Tasks to do again that had no part in their worker's death."""
        self._again.extend(tasks)

    def put_back_after_death(self, tasks: Iterable[Task]) -> None:
        """Tasks to do again, of which one may have killed its worker."""
        for task in tasks:
            self._deaths[task.index] += 1
            suspected = self._deaths[task.index] >= _DEATHS_OF_A_SUSPECT
            (self._suspects if suspected else self._again).append(task)
