"""Chooses the engine: shards in this process, or in several."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from altogether_rt.captioner import open_captioner
from altogether_rt.jobs.open import open_executor
from altogether_rt.jobs.shards.engine import LocalShardEngine, ShardEngine
from altogether_rt.jobs.shards.processes import ProcessShardEngine
from altogether_rt.machine.limits import available_cores
from altogether_rt.opening import ResolvedCaptioner
from altogether_rt.speculation.planner import Speculation

__all__ = ["open_shard_engine"]


def open_shard_engine(
    captioner: ResolvedCaptioner,
    *,
    workers: int = 1,
    threads: int | None = None,
    num_slots: int | None = None,
    speculation: Speculation = "auto",
    on_restart: Callable[[str], None] = lambda sentence: None,
) -> ShardEngine:
    """An engine for `captioner`, which is loaded when there is a shard to caption.

    workers: processes, each with the captioner of its own, which take shards one by one. threads:
    of each; by default they share the cores. on_restart: told of each worker that died.
    """
    if workers == 1:
        return LocalShardEngine(
            partial(
                open_executor,
                captioner,
                threads=threads,
                num_slots=num_slots,
                speculation=speculation,
            )
        )
    threads = threads or max(1, available_cores() // workers)
    open_in_worker = partial(
        open_captioner, captioner, threads=threads, num_slots=num_slots, speculation=speculation
    )
    return ProcessShardEngine(workers, open_in_worker, read_threads=threads, on_restart=on_restart)
