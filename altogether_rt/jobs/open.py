"""Chooses the executor: captions in this process, or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from altogether_rt.captioner import open_captioner
from altogether_rt.jobs.executor import Executor, LocalExecutor
from altogether_rt.jobs.processes import ProcessExecutor
from altogether_rt.opening import ResolvedCaptioner
from altogether_rt.runtime.ort_session import available_cores
from altogether_rt.runtime.select import DEFAULT_SLOTS
from altogether_rt.speculation.planner import Speculation

__all__ = ["open_executor"]


@contextmanager
def open_executor(
    captioner: ResolvedCaptioner,
    *,
    workers: int = 1,
    threads: int | None = None,
    num_slots: int | None = None,
    speculation: Speculation = "auto",
    on_restart: Callable[[str], None] = lambda sentence: None,
) -> Iterator[Executor]:
    """An executor for `captioner`, closed when the block is left.

    workers: processes, each with the captioner of its own. threads: of each; by default they share
    the cores. on_restart: told of each worker that died and is started again.
    """
    if workers == 1:
        opened = open_captioner(
            captioner, threads=threads, num_slots=num_slots, speculation=speculation
        )
        with opened:
            yield LocalExecutor(opened)
        return
    slots = num_slots or DEFAULT_SLOTS
    threads = threads or max(1, available_cores() // workers)
    open_in_worker = partial(
        open_captioner, captioner, threads=threads, num_slots=slots, speculation=speculation
    )
    yield ProcessExecutor(
        workers,
        open_in_worker,
        captioner.bundle_id,
        slots=slots,
        read_threads=threads,
        on_restart=on_restart,
    )
