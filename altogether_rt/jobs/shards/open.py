"""Chooses the engine: shards in this process, in several, or on a cluster."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from altogether_rt.captioner import open_captioner
from altogether_rt.data.parquet_files import import_parquet
from altogether_rt.data.sinks.shards.claims import this_process
from altogether_rt.errors import AltogetherError, MissingDependencyError
from altogether_rt.jobs.open import fitting_workers, open_executor
from altogether_rt.jobs.shards.cluster.engine import ClusterShardEngine
from altogether_rt.jobs.shards.cluster.ray_cluster import connect
from altogether_rt.jobs.shards.cluster.room import local_cpus
from altogether_rt.jobs.shards.cluster.worker import open_on_node
from altogether_rt.jobs.shards.engine import LocalShardEngine, ShardEngine
from altogether_rt.jobs.shards.processes import ProcessShardEngine
from altogether_rt.machine.device import parse_device
from altogether_rt.machine.limits import available_cores
from altogether_rt.opening import ResolvedCaptioner
from altogether_rt.runtime.select import resolve_device
from altogether_rt.speculation.planner import Speculation

__all__ = ["EngineName", "check_packages", "open_shard_engine"]

EngineName = Literal["local", "ray"]


def check_packages(engine: EngineName = "local") -> None:
    """Raises MissingDependencyError without what captions of shards are written with, or `engine`
    needs: to be called before the output is made the folder of a run.
    """
    try:
        import_parquet()
    except MissingDependencyError as error:
        raise MissingDependencyError("pyarrow", "shards", "captioning shards") from error
    if engine == "ray" and importlib.util.find_spec("ray") is None:
        raise MissingDependencyError("ray", "ray", "--engine ray")


def open_shard_engine(
    captioner: ResolvedCaptioner,
    *,
    engine: EngineName = "local",
    ray_address: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    num_slots: int | None = None,
    speculation: Speculation = "auto",
    on_restart: Callable[[str], None] = lambda sentence: None,
    note: Callable[[str], None] = lambda sentence: None,
) -> ShardEngine:
    """An engine for `captioner`, which is loaded when there is a shard to caption.

    workers: processes, each with the captioner of its own, which take shards one by one; None: one,
    or as many as a cluster has room for. threads: of each; by default they share the cores.
    ray_address: of a cluster; None: RAY_ADDRESS, or else this machine. on_restart: told of each
    worker that died; note: of what else one should know.
    """
    execution: dict[str, Any] = {"num_slots": num_slots, "speculation": speculation}
    if engine == "ray":
        resolved_by = this_process()
        num_cpus = local_cpus(available_cores(), workers, threads)
        return ClusterShardEngine(
            partial(connect, ray_address, num_cpus=num_cpus),
            lambda threads: partial(
                open_on_node, captioner, resolved_by, threads=threads, **execution
            ),
            workers=workers,
            threads=threads,
            on_gpu=_is_on_gpu(captioner),
            on_restart=on_restart,
            note=note,
        )
    workers = fitting_workers(captioner, workers or 1, None, note)
    if workers == 1:
        return LocalShardEngine(partial(open_executor, captioner, threads=threads, **execution))
    threads = threads or max(1, available_cores() // workers)
    opening = partial(open_captioner, captioner, threads=threads, **execution)
    return ProcessShardEngine(workers, opening, read_threads=threads, on_restart=on_restart)


def _is_on_gpu(captioner: ResolvedCaptioner) -> bool:
    """Whether each worker needs a GPU. Raises AltogetherError for a certain one: Ray chooses it."""
    device = parse_device(captioner.device)
    if device.index is not None:
        raise AltogetherError(
            f"Ray gives each worker a GPU of its own: choose --device {device.kind}, without "
            "a number."
        )
    if captioner.bundle is not None:
        return resolve_device(captioner.bundle, device).on_gpu
    assert captioner.checkpoint is not None
    return captioner.checkpoint.torch_device != "cpu"
