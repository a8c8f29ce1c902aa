"""One turn of a contestant: load once, then measure what fits in its time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.commands import Status
from harness.device_memory import DeviceMemory
from harness.protocol import Worker, WorkerEnded, WorkerError, WorkerTimeout, WorkerUnavailable
from harness.schedule import Cell, Deadline, Estimates

__all__ = ["Sweep", "Turn", "TurnPlan", "is_out_of_memory", "measure_cells", "take_turn"]

Job = dict[str, Any]


@dataclass
class Sweep:
    """What became of each cell."""

    done: dict[Cell, Job] = field(default_factory=dict)
    left_out: list[Cell] = field(default_factory=list)  # there was no time for them
    failed: dict[Cell, str] = field(default_factory=dict)
    out_of_memory: list[Cell] = field(default_factory=list)


@dataclass(frozen=True)
class TurnPlan:
    """How a contestant is measured."""

    cells: Sequence[Cell]  # in this order
    options: dict[str, Any]  # of the adapter
    run: Callable[[Worker, Cell, float], Job]  # measures one cell within some seconds
    load_timeout_s: float | None = None  # None: the turn's time
    grace_s: float = 0.0  # a cell that was begun in time may take so much longer
    on_load: Callable[[Worker, Mapping[str, Any]], Mapping[str, Any]] = lambda worker, figures: {}
    on_news: Callable[[Turn], None] = lambda turn: None
    report: Callable[[str], None] = lambda line: None


@dataclass
class Turn:
    """What a turn gave, complete whenever `on_news` is called."""

    status: Status = "ok"
    reason: str | None = None
    seconds: float = 0.0
    peak_device_bytes: int | None = None
    figures: dict[str, Any] = field(default_factory=dict)  # of loading and of the check
    sweep: Sweep = field(default_factory=Sweep)


def take_turn(
    start: Callable[[], contextlib.AbstractContextManager[Worker]],
    plan: TurnPlan,
    deadline: Deadline,
    estimates: Estimates,
) -> Turn:
    """Start a contestant, load it, measure its cells, end it.

    Whatever goes wrong in it becomes the turn's status and reason; what was measured before stays.
    estimates: what is known of its speed; it learns from each cell.
    """
    turn, begin = Turn(), time.monotonic()
    with DeviceMemory() as memory:
        try:
            with start() as worker:
                timeout_s = plan.load_timeout_s or max(deadline.remaining_s, 0.0)
                turn.figures |= worker.load(plan.options, timeout_s)
                turn.figures |= plan.on_load(worker, turn.figures)

                def on_result(cell: Cell, job: Job) -> None:
                    plan.report(f"  {cell.key}: {job['images'] / job['seconds']:.3g} images/s")
                    turn.peak_device_bytes = memory.peak_bytes
                    plan.on_news(turn)

                measure_cells(
                    plan.cells,
                    estimates,
                    deadline,
                    lambda cell, left_s: plan.run(worker, cell, left_s + plan.grace_s),
                    sweep=turn.sweep,
                    on_result=on_result,
                    report=plan.report,
                )
        except WorkerUnavailable as reason:
            turn.status, turn.reason = "skipped", str(reason)
        except WorkerTimeout as error:
            turn.status, turn.reason = "timeout", str(error)
        except WorkerError as error:
            turn.status, turn.reason = "failed", str(error)
    turn.peak_device_bytes = memory.peak_bytes
    turn.seconds = round(time.monotonic() - begin, 1)
    if turn.reason is not None:
        plan.report(f"  {turn.status}: {turn.reason}")
    return turn


def measure_cells(
    cells: Sequence[Cell],
    estimates: Estimates,
    deadline: Deadline,
    measure_one: Callable[[Cell, float], Job],
    *,
    sweep: Sweep | None = None,
    on_result: Callable[[Cell, Job], None] = lambda cell, job: None,
    report: Callable[[str], None] = lambda line: None,
) -> Sweep:
    """Measure each cell that is expected to fit, in order; `sweep` is filled as they are done.

    measure_one: given the cell and the seconds left. After a failure, cells that are as large or
    larger are not tried. If nothing could be measured, the last failure is raised; WorkerEnded is
    raised at once.
    """
    sweep, failure = sweep or Sweep(), None
    for cell in cells:
        if any(cell.covers(known) for known in (*sweep.failed, *sweep.out_of_memory)):
            continue
        left_s, expected_s = deadline.remaining_s, estimates.seconds(cell)
        if expected_s is not None and expected_s > left_s:
            report(f"  {cell.key}: no time, it needs about {expected_s:.0f} s")
            sweep.left_out.append(cell)
            continue
        try:
            job = measure_one(cell, max(left_s, 0.0))
        except WorkerEnded:
            raise
        except Exception as error:  # a larger batch than fits, in the words of any library
            failure, reason = error, " ".join(str(error).split())[:300]
            report(f"  {cell.key}: failed: {reason}")
            if is_out_of_memory(reason):
                sweep.out_of_memory.append(cell)
            else:
                sweep.failed[cell] = reason
            continue
        sweep.done[cell] = job
        estimates.add(cell, left_s - deadline.remaining_s)
        on_result(cell, job)
    if failure is not None and not sweep.done:
        raise failure
    return sweep


def is_out_of_memory(reason: str) -> bool:
    """Whether a smaller batch may do where this was the reason of a failure."""
    return "out of memory" in reason.lower()
