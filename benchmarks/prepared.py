"""What `altogether-rt prepare` saves: time to open a bundle, and memory of processes that use it.

    python benchmarks/prepared.py --bundle DIR [--workers 1,3] [--rounds 3] [--name NAME]

The bundle is opened as exported and prepared, in turns, with a cache folder of its own that is
removed at the end. Several processes open it at the same time and write one caption each. The time
is from the import of the package to the end of the first caption; memory is that of all processes
together (proportional set size: a page that three share counts a third for each). Linux only.
Writes benchmarks/results/prepared-NAME.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.bench.report import describe_machine
from altogether_rt.runtime.cpu.prepared import prepare

RESULTS = Path(__file__).parent / "results"

#: A process that opens the bundle, captions, prints how long it took and waits to be measured.
PROCESS = """
import sys, time
start = time.perf_counter()
from altogether_rt import Captioner
captioner = Captioner.load(sys.argv[1], num_slots=1, threads=int(sys.argv[2]))
opened = time.perf_counter()
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.text import make_sample
sample = make_sample(2026, 0, "test")
params = captioner.params(temperature=0.0, max_new_tokens=8)
captioner.caption([render(sample.scene)], [sample.alts], params)
print(opened - start, time.perf_counter() - start, flush=True)
sys.stdin.read()
"""


def memory_bytes(pid: int) -> int:
    """Proportional set size of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def together(bundle: Path, workers: int, threads: int, cache: str) -> dict[str, float]:
    """Figures of `workers` processes that run at the same time."""
    command = [sys.executable, "-c", PROCESS, str(bundle), str(threads)]
    variables = {**os.environ, "XDG_CACHE_HOME": cache}
    processes = [
        subprocess.Popen(command, env=variables, stdin=-1, stdout=-1, text=True)
        for _ in range(workers)
    ]
    try:
        lines = [process.stdout.readline() for process in processes if process.stdout]
        opened, captioned = zip(*(map(float, line.split()) for line in lines), strict=True)
        memory = sum(memory_bytes(process.pid) for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return {"opened_s": max(opened), "captioned_s": max(captioned), "memory_bytes": memory}


def measure(bundle: Bundle, workers: list[int], rounds: int, threads: int) -> dict[str, Any]:
    """Medians, by number of workers and state."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as plain, tempfile.TemporaryDirectory() as full:
        os.environ["XDG_CACHE_HOME"] = full
        start = time.perf_counter()
        prepared = prepare(bundle)
        prepare_s = time.perf_counter() - start
        os.sync()  # pages not yet written would count for each process
        caches = {"exported": plain, "prepared": full}
        for count in workers:
            states = found.setdefault(str(count), {name: [] for name in caches})
            share = max(1, threads // count)
            for index in range(rounds + 1):
                for name in list(caches) if index % 2 else list(caches)[::-1]:
                    figures = together(bundle.path, count, share, caches[name])
                    if index:  # the first fills the page cache
                        states[name].append(figures)
    return {
        "prepare_s": round(prepare_s, 2),
        "prepared_bytes": prepared.bytes,
        "rounds": rounds,
        "workers": {
            count: {
                name: {key: _median(run[key] for run in runs) for key in runs[0]}
                for name, runs in states.items()
            }
            for count, states in found.items()
        },
    }


def _median(values: Iterable[float]) -> float:
    found = median(values)
    return round(found, 3) if found < 1e6 else round(found)  # seconds; bytes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--workers", default="1,3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="in all processes together")
    parser.add_argument("--name", help="name of the result; default: the captioner's")
    arguments = parser.parse_args()
    bundle = Bundle.load(arguments.bundle)
    workers = [int(part) for part in arguments.workers.split(",")]
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": {**describe_machine(), "threads": arguments.threads},
        "bundle": bundle.config.name,
        "bundle_id": bundle.bundle_id,
        **measure(bundle, workers, arguments.rounds, arguments.threads),
    }
    name = arguments.name or bundle.config.name
    out = RESULTS / f"prepared-{name}.json"
    out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
