"""What is handed to workers next: suspects, what was begun before, then new tasks in a window."""

from __future__ import annotations

import pytest

from altogether_rt.data.alts import Alts
from altogether_rt.data.sources.base import Sample
from altogether_rt.jobs.backlog import Backlog
from altogether_rt.jobs.plan import ListedTasks, Task

pytestmark = pytest.mark.lean


def tasks(*indices: int) -> list[Task]:
    return [Task(index, Sample(str(index), Alts(), b"")) for index in indices]


def backlog(count: int, window: int = 100) -> Backlog:
    return Backlog(ListedTasks(tasks(*range(count))), window)


def drain(found: Backlog, oldest: int = 0) -> list[int]:
    indices = []
    while (task := found.next(oldest, wait=False)) is not None:
        indices.append(task.index)
    return indices


def test_new_tasks_are_drawn_only_within_the_window() -> None:
    found = backlog(10, window=3)
    assert drain(found) == [0, 1, 2]
    assert drain(found) == []
    assert (found.exhausted, found.finished) == (False, False)
    assert drain(found, oldest=2) == [3, 4]
    assert drain(found, oldest=9) == [5, 6, 7, 8, 9]
    assert (found.exhausted, found.finished) == (True, True)


def test_what_was_looked_at_to_count_tasks_counts_in_the_window() -> None:
    found = backlog(10, window=3)
    assert found.at_least(2) == 2
    assert drain(found) == [0, 1, 2]
    few = backlog(2)
    assert few.at_least(5) == 2
    assert (few.exhausted, few.finished) == (True, False), "both are still to be handed out"
    assert drain(few) == [0, 1]
    assert (few.exhausted, few.finished) == (True, True)


class Later:
    """Tasks of which none is there yet."""

    finished = False

    def get(self, wait: bool) -> Task | None:
        return None


def test_tasks_that_are_not_there_yet_are_not_taken_for_few() -> None:
    assert Backlog(Later(), 9).at_least(4) == 4


def test_the_second_death_makes_a_suspect_and_suspects_come_first() -> None:
    found = backlog(4)
    assert drain(found) == [0, 1, 2, 3]
    found.put_back_after_death(tasks(0, 1))
    assert (found.has_suspects, found.finished) == (False, False)
    found.put_back(tasks(2))
    found.put_back_after_death(tasks(1))
    assert (found.has_suspects, found.finished) == (True, False)
    assert drain(found) == [1, 0, 1, 2]
    assert (found.has_suspects, found.finished) == (False, True)
    found.put_back_after_death(tasks(2))  # its first death: it was only put back before
    assert (found.has_suspects, found.finished) == (False, False)
    assert drain(found) == [2]
