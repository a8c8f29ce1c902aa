"""Kill runs over shards at random moments: are rows lost, doubled or made again?

    python benchmarks/shards/kills.py [--kills 20] [--shards 20] [--samples 300] [--seed 0]

Kills (SIGKILL) `--kills` workers of one run, then `--kills` drivers of another, each followed by
the same command. The files must have the bytes of an undisturbed run, and the captions that were
made again must be at most a part a kill. `python -m tests.jobs.shards.kill_points` kills the writer
between any two of its system calls. Prints a JSON line each; exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from scale import InstantCaptioner, MadeShard

from altogether_rt.captions import Caption, CaptionParams, CaptionRequest
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.shards.base import Shard
from altogether_rt.jobs.plan import CaptionPlan
from altogether_rt.jobs.shards.plan import ShardJob
from altogether_rt.jobs.shards.processes import ProcessShardEngine
from altogether_rt.jobs.shards.run import caption_shards, plan_run

__all__ = ["main"]

PART_ROWS = 64


class LoggedCaptioner(InstantCaptioner):
    """Takes a while, and notes every caption that it makes."""

    def __init__(self, log: str) -> None:
        super().__init__()
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def stream(
        self, requests: Iterable[CaptionRequest], params: CaptionParams | None = None, **_: Any
    ) -> Iterator[Caption]:
        for caption in super().stream(requests, params):
            time.sleep(0.003)
            os.write(self._log, caption.text.encode() + b"\n")
            yield caption


def run_once(out: str, log: str, num_shards: int, num_samples: int) -> None:
    """What the killed processes do."""
    shards = [Shard(f"{n:05}", str(num_samples), num_samples, "1") for n in range(num_shards)]
    job = ShardJob(
        out=out,
        open_shard=MadeShard,
        bundle_id="logged",
        plan=CaptionPlan(CaptionParams(8, 0.0, 1.0), ImageLimits(), read_threads=1),
        part_rows=PART_ROWS,
    )
    with ProcessShardEngine(2, partial(LoggedCaptioner, log)) as engine:
        summary = caption_shards(plan_run(shards, job), job, engine)
    assert summary.shards == {"done": num_shards}, summary


def worker_of(pid: int, rng: random.Random) -> int | None:
    """One of the workers of a driver; None if it has none."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return rng.choice(found) if found else None


def disturbed(command: list[str], victim: str, kills: int, rng: random.Random) -> int:
    """Run the command until it ends by itself, killing on the way; returns the number of kills."""
    done = 0
    while True:
        process = subprocess.Popen(command)
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=rng.uniform(0.5, 4.0))
            if done >= kills or process.poll() is not None:
                continue
            pid = process.pid if victim == "driver" else worker_of(process.pid, rng)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                done += 1
        if process.returncode == 0:
            return done


def compare(folder: Path, victim: str, kills: int, num_captions: int) -> dict[str, Any]:
    """What is wrong with the files of a disturbed run, and how much was made again."""
    whole, out = folder / "whole", folder / victim
    names = sorted(path.name for path in whole.glob("*.parquet"))
    different = [name for name in names if _bytes(out / name) != _bytes(whole / name)]
    made = (folder / f"{victim}.log").read_bytes().count(b"\n")
    again = made - num_captions
    parts = 2 if victim == "driver" else 1  # it has two workers
    return {
        "victim": victim,
        "kills": kills,
        "files_that_differ": len(different),
        "captions_made_again": again,
        "made_again_a_kill": round(again / kills, 1) if kills else 0,
        "part_rows": PART_ROWS,
        "fine": not different and again <= kills * parts * PART_ROWS,
    }


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill runs over shards and compare the results.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--once", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        run_once(*given.once, given.shards, given.samples)
        return
    rng = random.Random(given.seed)
    sizes = ["--shards", str(given.shards), "--samples", str(given.samples)]
    fine = True
    with tempfile.TemporaryDirectory(prefix="shards-kills-") as name:
        folder = Path(name)
        for victim in ("none", "worker", "driver"):
            out = folder / ("whole" if victim == "none" else victim)
            log = str(folder / f"{victim}.log")
            command = [sys.executable, __file__, *sizes, "--once", str(out), log]
            kills = disturbed(command, victim, 0 if victim == "none" else given.kills, rng)
            if victim != "none":
                found = compare(folder, victim, kills, given.shards * given.samples)
                fine = fine and found["fine"]
                print(json.dumps(found), flush=True)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
