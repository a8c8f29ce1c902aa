"""Ten million samples without a disk full of images: is memory flat, are status and resume quick?

    python benchmarks/shards/scale.py [--shards 1000] [--samples 10000] [--workers 1]

Shards are made in memory, a fake captioner answers at once; everything else is as in a real run.
Prints one JSON line: microseconds of CPU a sample, peak memory after a tenth of the shards and at
the end, seconds of `status` and of a run that finds everything done.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from altogether_rt.captions import Caption, CaptionParams, CaptionRequest
from altogether_rt.data.alts import Alts
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.shards.base import Ending, Shard, ShardSource
from altogether_rt.data.sources.base import Sample
from altogether_rt.generation.engine import EngineStats
from altogether_rt.jobs.executor import LocalExecutor
from altogether_rt.jobs.plan import CaptionPlan
from altogether_rt.jobs.shards.engine import LocalShardEngine, ShardEngine
from altogether_rt.jobs.shards.plan import ShardJob
from altogether_rt.jobs.shards.processes import ProcessShardEngine
from altogether_rt.jobs.shards.run import ShardSummary, caption_shards, plan_run
from altogether_rt.jobs.shards.status import read_status

__all__ = ["InstantCaptioner", "MadeShard", "main"]


def _images() -> list[bytes]:
    """Small pictures, few of which are enough: each goes with another alt-text."""
    found = []
    for number in range(64):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (number, 3 * number, 255 - number)).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


IMAGES = _images()


class MadeShard(ShardSource):
    """Samples that are made when they are asked for."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard

    def samples(self) -> Iterator[Sample]:
        for number in range(int(self.shard.url)):
            key = f"{self.shard.name}-{number:06}"
            yield Sample(key, Alts((f"alt of {key}",)), IMAGES[number % len(IMAGES)])

    def samples_where(self, wanted: Callable[[int, str], bool]) -> Iterator[Sample]:
        return (s for index, s in enumerate(self.samples()) if wanted(index, s.key))

    @property
    def ending(self) -> Ending:
        return Ending("whole")

    def __enter__(self) -> MadeShard:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class _Preprocessor:
    size = 8

    def pixels(self, image: Image.Image) -> Any:
        return np.asarray(image)


class InstantCaptioner:
    """Answers at once."""

    bundle_id = "instant"

    def __init__(self) -> None:
        self.preprocessor = _Preprocessor()
        self.stats = EngineStats()

    def stream(
        self, requests: Iterable[CaptionRequest], params: CaptionParams | None = None, **_: Any
    ) -> Iterator[Caption]:
        for request in requests:
            yield Caption(f"A caption of {request.alts[0]}.", "eos", 9, False, 7)

    def __enter__(self) -> InstantCaptioner:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def _peak_mb() -> float:
    """Of this process, or of the largest of its workers that are gone."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(each).ru_maxrss for each in who) / 1024


def _cpu_s() -> float:
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


def _caption(shards: list[Shard], job: ShardJob, workers: int) -> tuple[ShardSummary, float]:
    engine: ShardEngine = LocalShardEngine(lambda: nullcontext(LocalExecutor(InstantCaptioner())))
    if workers > 1:
        engine = ProcessShardEngine(workers, InstantCaptioner)
    start = time.monotonic()
    with engine:
        summary = caption_shards(plan_run(shards, job), job, engine)
    return summary, time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Run over shards that are made in memory.")
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=10_000, help="in each shard")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    url = str(given.samples)
    shards = [Shard(f"{n // 1000:03}/{n:06}", url, given.samples, "1") for n in range(given.shards)]
    with tempfile.TemporaryDirectory(prefix="shards-scale-") as folder:
        job = ShardJob(
            out=str(Path(folder) / "out"),
            open_shard=MadeShard,
            bundle_id="instant",
            plan=CaptionPlan(CaptionParams(8, 0.0, 1.0), ImageLimits(), read_threads=1),
        )
        first = max(1, given.shards // 10)
        _caption(shards[:first], job, given.workers)
        early_mb, early_cpu_s = _peak_mb(), _cpu_s()
        summary, seconds = _caption(shards, job, given.workers)
        cpu_s = _cpu_s() - early_cpu_s
        again, resume_s = _caption(shards, job, given.workers)
        assert again.num_skipped == given.shards and again.num_new == 0
        start = time.monotonic()
        status = read_status(job.out)
        status_s = time.monotonic() - start
        assert status.counts.rows == given.shards * given.samples == summary.counts.rows
        size = sum(path.stat().st_size for path in Path(job.out).rglob("*.parquet"))
    print(
        json.dumps(
            {
                "samples": status.counts.rows,
                "shards": given.shards,
                "workers": given.workers,
                "cpu_us_a_sample": round(1e6 * cpu_s / ((given.shards - first) * given.samples), 1),
                "samples_a_second": round((given.shards - first) * given.samples / seconds),
                "peak_mb_after_a_tenth": round(early_mb, 1),
                "peak_mb": round(_peak_mb(), 1),
                "status_s": round(status_s, 2),
                "resume_s": round(resume_s, 2),
                "parquet_bytes_a_row": round(size / status.counts.rows, 1),
                "python": platform.python_version(),
            }
        )
    )


if __name__ == "__main__":
    main()
