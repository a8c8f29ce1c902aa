"""Our engine for Ray, with a captioner that needs no bundle."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from altogether_rt.jobs.shards.cluster.engine import ClusterShardEngine
from altogether_rt.jobs.shards.cluster.ray_cluster import connect
from altogether_rt.jobs.shards.engine import ShardEngine
from benchmarks.shards.dummy import DummyCaptioner

__all__ = ["ray_engine"]


def ray_engine(workers: int, open_captioner: Callable[[], DummyCaptioner]) -> ShardEngine:
    """`workers` actors on a Ray of this machine, which ends with the block."""
    return ClusterShardEngine(
        partial(connect, None, num_cpus=workers),
        lambda threads: open_captioner,
        workers=workers,
        threads=1,
    )
