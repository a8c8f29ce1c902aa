"""Chooses the executor: captions in this process, or in several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from altogether_rt.captioner import open_captioner
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.executor import Executor, LocalExecutor
from altogether_rt.jobs.processes import ProcessExecutor
from altogether_rt.machine.limits import available_cores, available_memory
from altogether_rt.opening import ResolvedCaptioner
from altogether_rt.runtime.cpu.prepared import find_prepared
from altogether_rt.runtime.select import DEFAULT_SLOTS
from altogether_rt.speculation.planner import Speculation

__all__ = ["fitting_workers", "open_executor"]

#: What a worker holds besides the weights: the interpreter, libraries, images being decoded.
_WORKER_BYTES = 256 * 1024 * 1024


def fitting_workers(
    captioner: ResolvedCaptioner,
    workers: int,
    num_samples: int | None,
    note: Callable[[str], None],
) -> int:
    """`workers`, or fewer if there is less to do or too little memory; `note` is told why.

    num_samples: to caption, None if that is not known. A worker holds the weights once more, unless
    they are prepared, which lets all of them share one copy.
    """
    if num_samples is not None and workers > num_samples >= 1:
        images = "there is one image" if num_samples == 1 else f"there are {num_samples} images"
        note(f"--workers is {workers}, and {images}: more would have nothing to do.")
        workers = num_samples
    memory, bundle = available_memory(), captioner.bundle
    if workers == 1 or memory is None or bundle is None or find_prepared(bundle) is not None:
        return workers
    each = _WORKER_BYTES + sum(spec.bytes for spec in bundle.manifest.files.values())
    room = max(1, memory // each)
    if workers > room:
        note(
            f"{workers} workers would hold {each / 1e9:.1f} GB each, and this process may use "
            f"{memory / 1e9:.1f} GB: {'one is' if room == 1 else f'{room} are'} used; "
            "`altogether-rt prepare` lets them share."
        )
    return min(workers, room)


def _check_workers(workers: int) -> None:
    if workers < 1:
        raise AltogetherError(f"workers must be at least 1, not {workers}.")
    importing = getattr(multiprocessing.current_process(), "_inheriting", False)
    if workers > 1 and importing:  # as multiprocessing itself finds out
        raise AltogetherError(
            "each worker imports the program that starts it, and must not start workers itself: "
            'in that program, put this below if __name__ == "__main__":.'
        )


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
    the cores. on_restart: told of each worker that died and is started again. Raises
    AltogetherError for fewer than one worker, and in a worker that runs the program again which
    started it.
    """
    _check_workers(workers)
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
