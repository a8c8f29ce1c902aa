"""altogether-rt over tars with the dummy captioner: a program to measure, and to kill.

python -m benchmarks.shards.ours IN OUT [--workers N] [--engine ray] [--delay S] [--log FILE]
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from altogether_rt.data.images import ImageLimits
from altogether_rt.data.shards.listing import list_shards
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.executor import LocalExecutor
from altogether_rt.jobs.plan import CaptionPlan
from altogether_rt.jobs.shards.engine import LocalShardEngine, ShardEngine
from altogether_rt.jobs.shards.plan import ShardJob
from altogether_rt.jobs.shards.processes import ProcessShardEngine
from altogether_rt.jobs.shards.reading import ShardReader
from altogether_rt.jobs.shards.run import ShardSummary, caption_shards, plan_run
from benchmarks.shards.dummy import PARAMS, DummyCaptioner

__all__ = ["caption", "main"]


def caption(
    inputs: str,
    out: str,
    *,
    workers: int = 1,
    engine: str = "local",
    delay_s: float = 0.0,
    log: Path | None = None,
    part_rows: int = 512,
    file_bytes: int | None = None,
) -> ShardSummary:
    """Caption every tar of `inputs` into `out`, as the command does.

    part_rows: rows of a durable part. file_bytes: no file may become larger, as on a full disk.
    """
    job = ShardJob(
        out=out,
        open_shard=ShardReader(),
        bundle_id="dummy",
        plan=CaptionPlan(PARAMS, ImageLimits()),
        part_rows=part_rows,
    )
    open_captioner = partial(DummyCaptioner, delay_s, log)
    plan = plan_run(list_shards([inputs]), job)
    if file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, resource.RLIM_INFINITY))
    with _engine(engine, workers, open_captioner) as opened:
        return caption_shards(plan, job, opened)


def _engine(name: str, workers: int, open_captioner: partial[DummyCaptioner]) -> ShardEngine:
    if name == "ray":
        from benchmarks.shards.on_ray import ray_engine

        return ray_engine(workers, open_captioner)
    if workers == 1:
        return LocalShardEngine(lambda: nullcontext(LocalExecutor(open_captioner())))
    return ProcessShardEngine(workers, open_captioner, read_threads=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inputs")
    parser.add_argument("out")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--part-rows", type=int, default=512)
    parser.add_argument("--file-bytes", type=int)
    given = parser.parse_args()
    try:
        summary = caption(
            given.inputs,
            given.out,
            workers=given.workers,
            engine=given.engine,
            delay_s=given.delay,
            log=given.log,
            part_rows=given.part_rows,
            file_bytes=given.file_bytes,
        )
    except (AltogetherError, OSError) as error:
        sys.exit(str(error))
    print(dict(summary.shards), summary.num_new)
    sys.exit(0 if set(summary.shards) <= {"done"} else 3)


if __name__ == "__main__":
    main()
