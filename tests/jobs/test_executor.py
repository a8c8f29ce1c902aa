"""Reading ahead: several tasks at once where they are quick, answers in order, errors in turn."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from altogether_rt.captions import Answer, Caption, CaptionParams, CaptionRequest
from altogether_rt.data.alts import Alts
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.sources.base import Sample
from altogether_rt.errors import ImageError
from altogether_rt.generation.engine import EngineStats
from altogether_rt.jobs import executor
from altogether_rt.jobs.executor import caption_tasks
from altogether_rt.jobs.plan import CaptionPlan, ListedTasks, Task, Tasks

pytestmark = pytest.mark.lean

PARAMS = CaptionParams(8, 0.0, 1.0)


@dataclass(frozen=True)
class Plan(CaptionPlan):
    """A plan whose images are read by a function."""

    read: Callable[[Task], CaptionRequest] = lambda task: request(task.index)

    def reader(self, captioner: Any) -> Callable[[Task], CaptionRequest]:
        return self.read


class Captioner:
    """Writes what is in a picture; takes so many requests at a time."""

    preprocessor: Any = None
    bundle_id = "test"

    def __init__(self, batch: int = 4) -> None:
        self.stats = EngineStats()
        self._batch = batch

    def stream(
        self, requests: Iterable[CaptionRequest], params: CaptionParams | None = None, **_: Any
    ) -> Iterator[Caption]:
        source: Any = requests
        while (taken := source.take(self._batch, True)) is not None:
            for one in taken:
                assert one.pixels is not None
                yield Caption(str(one.pixels[0, 0, 0]), "eos", 1, False, 0)


def request(number: int) -> CaptionRequest:
    return CaptionRequest(np.full((2, 2, 3), number % 256, np.uint8))


def tasks(count: int) -> list[Task]:
    return [Task(i, Sample(str(i), Alts(), b"")) for i in range(count)]


def run(source: Tasks, read: Callable[[Task], CaptionRequest], threads: int = 2) -> list[Answer]:
    answers: list[Answer] = []

    def emit(index: int, answer: Answer) -> None:
        assert index == len(answers)
        answers.append(answer)

    plan = Plan(PARAMS, ImageLimits(), read_threads=threads, read=read)
    caption_tasks(source, Captioner(), plan, emit)
    return answers


class Reading:
    """Reads tasks, slowly or not, and notes which were read in one go."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds
        self.handed_out: list[list[int]] = []

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        read_all = executor._read_all

        def watched(tasks: list[Task], *rest: Any) -> Any:
            self.handed_out.append([task.index for task in tasks])
            return read_all(tasks, *rest)

        monkeypatch.setattr(executor, "_read_all", watched)

    def __call__(self, task: Task) -> CaptionRequest:
        time.sleep(self._seconds)
        return request(task.index)


def test_quick_images_are_read_some_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "_READ_S", 60.0)  # quick, however busy this machine is
    reading = Reading()
    reading.watch(monkeypatch)
    answers = run(ListedTasks(tasks(200)), reading)
    assert [a.text for a in answers if isinstance(a, Caption)] == [str(i) for i in range(200)]
    handed_out = sorted(reading.handed_out)
    assert list(itertools.chain(*handed_out)) == list(range(200))
    assert len(handed_out[0]) == 1, "nothing is known of the first"
    assert max(map(len, handed_out)) == executor._MAX_READ_AT_ONCE


def test_slow_images_are_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for eight large photographs would make the first caption late."""
    reading = Reading(2 * executor._READ_S)
    reading.watch(monkeypatch)
    assert len(run(ListedTasks(tasks(40)), reading)) == 40
    assert {len(some) for some in reading.handed_out} == {1}


def test_as_many_images_are_read_at_once_as_there_are_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four threads would read some 300 images a second, and a GPU captions more."""
    monkeypatch.setattr("altogether_rt.jobs.plan.available_cores", lambda: 16)
    together = threading.Barrier(16)

    def read(task: Task) -> CaptionRequest:
        if task.index < 16:
            together.wait(timeout=60)  # BrokenBarrierError, unless all sixteen come
        return request(task.index)

    answers: list[Answer] = []
    plan = Plan(PARAMS, ImageLimits(), read=read)
    caption_tasks(ListedTasks(tasks(40)), Captioner(), plan, lambda i, a: answers.append(a))
    assert len(answers) == 40


def test_errors_stay_in_their_turn() -> None:
    def read(task: Task) -> CaptionRequest:
        if task.index % 3 == 1:
            raise ImageError("damaged", f"{task.index} is damaged.")
        return request(task.index)

    answers = run(ListedTasks(tasks(100)), read)
    for index, answer in enumerate(answers):
        if index % 3 == 1:
            assert str(answer) == f"{index} is damaged."
        else:
            assert isinstance(answer, Caption) and answer.text == str(index)


def test_what_is_no_images_fault_is_raised_in_its_turn() -> None:
    def read(task: Task) -> CaptionRequest:
        if task.index == 90:
            raise ZeroDivisionError
        return request(task.index)

    emitted: list[int] = []
    plan = Plan(PARAMS, ImageLimits(), read_threads=2, read=read)
    with pytest.raises(ZeroDivisionError):
        caption_tasks(
            ListedTasks(tasks(100)), Captioner(1), plan, lambda index, answer: emitted.append(index)
        )
    assert emitted == list(range(90)), "all before it have their answers"


def test_tasks_that_come_one_by_one_are_not_waited_for() -> None:
    """However many a thread may be given at once."""
    answered = threading.Event()

    class Live:
        """Its next task comes when the one before has been answered."""

        finished = False

        def __init__(self) -> None:
            self._left = tasks(50)

        def get(self, wait: bool) -> Task | None:
            if not self._left:
                self.finished = True
                return None
            if len(self._left) < 50 and not answered.wait(10 if wait else 0):
                assert not wait, "the task before was not answered"
                return None
            answered.clear()
            return self._left.pop(0)

    captions: list[str] = []

    def emit(index: int, answer: Answer) -> None:
        assert isinstance(answer, Caption)
        captions.append(answer.text)
        answered.set()

    caption_tasks(Live(), Captioner(), Plan(PARAMS, ImageLimits(), read_threads=2), emit)
    assert captions == [str(i) for i in range(50)]
