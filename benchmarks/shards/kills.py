"""Rows lost, doubled and made again, after everything that can go wrong.

    python -m benchmarks.shards.kills WORK [--kills 20] [--seed 0] [--only NAME,...]

20 shards, two workers, a dummy captioner that takes 4 ms an image. A worker, the driver (whose
workers notice) and a single process that captions and writes are killed with SIGKILL at random
moments, and the command is given again until it succeeds; then a writer is killed between any two
of its system calls. Tars are truncated and damaged, files may not grow, an object store on
loopback fails one request in ten. The files must have the bytes of an undisturbed run. The same is
done to a loop over `tarfile`, and the faulty tars are given to webdataset and to Ray's rows.
Writes benchmarks/results/shards-kills.json and .md; exits with 1 if ours lost or doubled a row.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.shards import faults
from benchmarks.shards.dataset import make_shards
from benchmarks.shards.outcome import Outcome, as_table, save

__all__ = ["main"]

RESULT = Path(__file__).parents[1] / "results" / "shards-kills.json"

#: Samples in each of the shards, and rows of a part.
NUM_SHARDS = 20
NUM_SAMPLES = 64
PART_ROWS = 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only",
        help="worker, driver, writer, calls, tars, disk, store, ray: what is named replaces what\n"
        "an earlier run found out",
    )
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    folder = given.work / "in"
    make_shards(folder, NUM_SHARDS, NUM_SAMPLES, 16)
    study = faults.Study(folder, given.work, PART_ROWS, random.Random(given.seed))
    tests: dict[str, Callable[[], list[Outcome]]] = {
        "worker": lambda: study.kills("worker", given.kills),
        "driver": lambda: study.kills("driver", given.kills),
        "writer": lambda: study.kills("writer", given.kills),
        "calls": study.system_calls,
        "tars": study.faulty_tars,
        "disk": study.full_disk,
        "store": study.flaky_store,
        "ray": study.ray_rows,
    }
    chosen = given.only.split(",") if given.only else list(tests)
    settings = {
        "shards": NUM_SHARDS,
        "samples_a_shard": NUM_SAMPLES,
        "part_rows": PART_ROWS,
        "kills": given.kills,
        "seed": given.seed,
    }
    outcomes: list[Outcome] = []
    for name in chosen:
        for outcome in tests[name]():
            print(outcome.line(), flush=True)
            outcomes.append(outcome)
            save(given.result, settings, outcomes)
    print(as_table(outcomes))
    sys.exit(any(outcome.is_bad for outcome in outcomes))


if __name__ == "__main__":
    main()
