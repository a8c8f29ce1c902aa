"""Samples to answers: the part that every job shares, whatever it reads and writes."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from altogether_rt.captions import Answer
from altogether_rt.data.alts import Alts
from altogether_rt.data.sources.base import Sample
from altogether_rt.generation.engine import EngineStats
from altogether_rt.jobs.executor import Executor
from altogether_rt.jobs.plan import CaptionPlan, ListedTasks, QueuedTasks, Task

__all__ = ["EmitSample", "caption_samples"]

#: Called with a sample's key, its alt-texts and its answer, in the order of the samples.
EmitSample = Callable[[str, Alts, Answer], None]


def caption_samples(
    samples: Iterable[Sample],
    executor: Executor,
    plan: CaptionPlan,
    emit: EmitSample,
    *,
    live: bool = False,
) -> EngineStats:
    """Caption `samples` and call `emit` for each, in order; memory does not grow with their number.

    live: samples arrive over time (`Source.live`): captions go on while none is ready. Without any
    sample the executor is not used.
    """
    drawn: deque[tuple[str, Alts]] = deque()  # without their images, which may be large

    def tasks() -> Iterator[Task]:
        for index, sample in enumerate(samples):
            drawn.append((sample.key, sample.alts))
            yield Task(index, sample)

    def emit_next(index: int, answer: Answer) -> None:
        key, alts = drawn.popleft()
        emit(key, alts, answer)

    if live:
        return executor.run(QueuedTasks(tasks()), plan, emit_next)
    stream = tasks()
    first = next(stream, None)
    if first is None:
        return EngineStats()
    return executor.run(ListedTasks(itertools.chain([first], stream)), plan, emit_next)
