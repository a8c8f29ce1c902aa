"""Opens changed bundles, tokenizers, guess files, embeddings, checkpoints, weights and Parquet.

    python -m tests.untrusted.fuzz 10000 [first seed] [--kind tokenizer]

Each must be used or refused in one sentence: no traceback, no signal, at most 1 GB, at most half a
minute of processor time.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import torch

from tests.untrusted.targets import SHARES, make_targets
from tests.untrusted.worker import Outcome, run_all

__all__ = ["fuzz"]


def fuzz(
    work: Path, count: int, first: int = 0, kinds: tuple[str, ...] = tuple(SHARES)
) -> Iterator[tuple[str, Outcome]]:
    """(kind, outcome) of `count` inputs made from the seeds `first`, `first` + 1, …"""
    torch.set_num_threads(1)
    targets = make_targets(work)
    gc.collect()
    gc.freeze()  # what was made so far is not looked through after every input
    wheel = list(itertools.chain(*([kind] * SHARES[kind] for kind in kinds)))
    Random(1).shuffle(wheel)

    def kind_of(seed: int) -> str:
        return wheel[seed % len(wheel)]

    def prepare(seed: int) -> Callable[[], object]:
        target = targets[kind_of(seed)]
        folder = work / f"input-{seed}"
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was ended
        folder.mkdir()
        target.write(folder, Random(seed))
        return lambda: target.use(folder)

    for outcome in run_all(list(range(first, first + count)), prepare):
        shutil.rmtree(work / f"input-{outcome.number}", ignore_errors=True)
        yield kind_of(outcome.number), outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=10_000)
    parser.add_argument("first", type=int, nargs="?", default=0)
    parser.add_argument("--kind", choices=tuple(SHARES), action="append")
    options = parser.parse_args()
    kinds = tuple(options.kind or SHARES)
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as work:
        for kind, outcome in fuzz(Path(work), options.count, options.first, kinds):
            counts[kind, outcome.kind] += 1
            if outcome.failed:
                print(f"seed {outcome.number} {kind} {outcome.kind}: {outcome.message}", flush=True)
    columns = ("used", "refused", "traceback", "signal", "memory", "slow")
    print(f"{'':12}", *(f"{column:>9}" for column in columns))
    for kind in kinds:
        print(f"{kind:12}", *(f"{counts[kind, column]:9}" for column in columns))
    failures = sum(n for (_, kind), n in counts.items() if kind not in ("used", "refused"))
    print(f"{sum(counts.values())} inputs, {failures} failures")
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
