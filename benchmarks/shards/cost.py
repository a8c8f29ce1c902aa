"""What it costs to caption shards, beside other ways: processor time, memory, images/s.

    python -m benchmarks.shards.cost WORK [--images 8000] [--shards 8] [--side 64] [--rounds 3]
        [--only NAME,...] [--starter 200]

The same tars for all, in the layout of img2dataset, two sizes of them, contestants in turn.
Processor milliseconds an image are the difference between the two sizes, fixed seconds what is
left: neither has the start-up of the other; images/s have. All but the readers write one Parquet
file a shard and caption with a dummy. Each runs in processes of its own, all of which count; memory
is of all of them together.
Writes benchmarks/results/shards-cost.json and .md. Contestants that are not installed are left out
with the reason.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from studies.record import write_result, write_whole

from benchmarks.shards.dataset import make_shards

__all__ = ["CONTESTANTS", "Contestant", "main"]

RESULT = Path(__file__).parents[1] / "results" / "shards-cost.json"

#: Seconds in which a turn must end.
TIMEOUT_S = 600

#: The small size, as a part of the large one.
SMALL = 8


@dataclass(frozen=True)
class Contestant:
    """A way to read or caption shards."""

    name: str
    module: str  # of benchmarks.shards
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    needs: str | None = None  # a package
    workers: int = 1
    reads_only: bool = False

    def command(self, inputs: Path, out: Path) -> list[str]:
        """The program, as it is run."""
        program = [sys.executable, "-m", f"benchmarks.shards.{self.module}", *self.before]
        if self.reads_only:
            return [*program, str(inputs)]
        return [*program, str(inputs), str(out), "--workers", str(self.workers), *self.after]

    @property
    def missing(self) -> str | None:
        """Why it cannot take part."""
        if self.needs is None or _is_there(self.needs):
            return None
        return f"{self.needs} is not there"


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


#: Where the engine for Ray is, in versions that have it.
RAY_ENGINE = "altogether_rt.jobs.shards.cluster"

CONTESTANTS = (
    Contestant("reading: plain loop", "reading", ("loop",), reads_only=True),
    Contestant("reading: ours", "reading", ("ours",), reads_only=True),
    Contestant("reading and checking: ours", "reading", ("ours-checked",), reads_only=True),
    Contestant("plain loop", "naive"),
    Contestant("ours", "ours"),
    Contestant("process pool", "naive", workers=2),
    Contestant("ours by 2 workers", "ours", workers=2),
    Contestant("Dask (a task a shard)", "dask_shards", needs="distributed", workers=2),
    Contestant("datatrove (a task a shard)", "datatrove_shards", needs="datatrove", workers=2),
    Contestant("Ray rows", "ray_rows", needs="ray", workers=2),
    Contestant("ours on Ray", "ours", after=("--engine", "ray"), needs=RAY_ENGINE, workers=2),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only",
        help="names, separated by commas: their figures replace those of an earlier run",
    )
    parser.add_argument("--starter", type=int, default=200, help="images; 0: not with the starter")
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    each = given.images // given.shards
    sizes = {
        each // SMALL * given.shards: given.work / f"small-{given.side}",
        each * given.shards: given.work / f"large-{given.side}",
    }
    for images, folder in sizes.items():
        make_shards(folder, given.shards, images // given.shards, given.side)
    chosen = [c for c in CONTESTANTS if given.only is None or c.name in given.only.split(",")]
    turns: dict[str, dict[int, list[dict[str, Any]]]] = {c.name: {} for c in chosen}
    for _ in range(given.rounds):
        for images, folder in sizes.items():
            for contestant in chosen:
                if contestant.missing is None:
                    turn = take_turn(contestant.command(folder, given.work / "out"), given.work)
                    turns[contestant.name].setdefault(images, []).append(turn)
                    print(contestant.name, images, json.dumps(turn), flush=True)
    rows = [_row(contestant, turns[contestant.name]) for contestant in chosen]
    former = json.loads(given.result.read_text("utf-8")) if given.result.exists() else {}
    new = {row["name"] for row in rows}
    rows = [row for row in former.get("contestants", []) if row["name"] not in new] + rows
    order = [contestant.name for contestant in CONTESTANTS]
    rows.sort(key=lambda row: order.index(row["name"]))
    starter = former.get("starter", [])
    if given.starter:
        starter = _starter(given.work, given.starter, given.rounds)
    settings = {
        "images": list(sizes),
        "shards": given.shards,
        "side": given.side,
        "rounds": given.rounds,
        "load": [round(load, 1) for load in os.getloadavg()],
        "cores": os.cpu_count(),
    }
    result = write_result(given.result, settings, {"contestants": rows, "starter": starter})
    text = as_text(result)
    write_whole(given.result.with_suffix(".md"), text)
    print(text)


def take_turn(command: list[str], work: Path) -> dict[str, Any]:
    """Run a program with an empty output folder and measure it."""
    shutil.rmtree(work / "out", ignore_errors=True)
    watch = [sys.executable, "-m", "benchmarks.shards.measured", str(TIMEOUT_S), *command]
    done = subprocess.run(watch, capture_output=True, text=True)
    turn: dict[str, Any] = json.loads(done.stdout)
    return turn


def _row(contestant: Contestant, by_images: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": contestant.name, "workers": contestant.workers}
    failed = [turn["error"] for turns in by_images.values() for turn in turns if turn["code"]]
    if contestant.missing or failed:
        return {**row, "skipped": contestant.missing or failed[0]}
    (small, few), (large, many) = sorted(by_images.items())
    low, high = (median(turn["cpu_s"] for turn in turns) for turns in (few, many))
    cpu_s = (high - low) / (large - small)
    return {
        **row,
        "images": [small, large],
        "cpu_ms_per_image": 1000 * cpu_s,
        "fixed_cpu_s": low - small * cpu_s,
        "memory_mb": max(turn["memory_mb"] for turn in many),
        "images_per_s": large / median(turn["seconds"] for turn in many),
        "turns": by_images,
    }


def _starter(work: Path, images: int, rounds: int) -> list[dict[str, Any]]:
    """The command itself with the starter, in turn; the middle turn of each way.

    A worker reads in threads of its own, so that one alone uses more than a core unless it is bound
    to one.
    """
    folder = work / f"starter-{images}"
    make_shards(folder, 4, images // 4, 224)
    ways: dict[str, tuple[list[str], int]] = {
        "one worker, bound to one core": (["taskset", "-c", "0"], 1),
        "one worker": ([], 1),
        "two workers": ([], 2),
    }
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (before, workers) in ways.items():
            command = [*before, sys.executable, "-m", "altogether_rt.cli.main", "caption"]
            command += [str(folder), "--out", str(work / "out"), "--quiet"]
            turns[name].append(take_turn([*command, "--workers", str(workers)], work))
            print("starter", name, json.dumps(turns[name][-1]), flush=True)
    rows = []
    for name, found in turns.items():
        middle = sorted(found, key=lambda turn: turn["seconds"])[len(found) // 2]
        rows.append({"name": name, "images": images, **middle})
    return rows


def _turns(row: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """The turns by number of images; JSON made texts of those."""
    return {int(images): turns for images, turns in row["turns"].items()}


def _is_mostly_start(row: dict[str, Any]) -> bool:
    """Whether the few turns that there are say little but what starting takes."""
    few = min(_turns(row).items())[1]
    return len(few) < 3 and median(turn["cpu_s"] for turn in few) > 3.0


def as_text(result: dict[str, Any]) -> str:
    """The figures in Markdown."""
    settings, machine = result["settings"], result["machine"]
    rows = {row["name"]: row for row in result["contestants"]}
    lines = [
        f"`{result['command']}`, {machine['processor']}, Python {machine['versions']['python']}, "
        f"{machine['date']}: PNGs of {settings['side']} px in {settings['shards']} "
        "tars, medians. The machine was shared: "
        f"a load of {settings['load'][2]:.0f} on {settings['cores']} cores, so images/s are those "
        "of that hour; processor time is what can be compared.",
        "",
        "| | workers | images | CPU ms/image | of the loop | fixed CPU s | memory MB | images/s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in result["contestants"]:
        if "skipped" in row:
            lines.append(
                f"| {row['name']} | {row['workers']} | – | – | – | – | – | {row['skipped']} |"
            )
            continue
        base = rows.get("reading: plain loop" if "reading" in row["name"] else "plain loop", {})
        ratio = "–"
        if "cpu_ms_per_image" in base:
            ratio = f"{row['cpu_ms_per_image'] / base['cpu_ms_per_image']:.2f}"
        if row["cpu_ms_per_image"] <= 0 or _is_mostly_start(row):
            # Start-up varies more than so few images take.
            few, many = (
                [turn["cpu_s"] for turn in turns] for _, turns in sorted(_turns(row).items())
            )
            lines.append(
                f"| {row['name']} | {row['workers']} | {row['images'][1]:,} | – | – | "
                f"{min(few + many):.1f} to {max(few + many):.1f} in all | "
                f"{row['memory_mb']:.0f} | {row['images_per_s']:.0f} |"
            )
            continue
        lines.append(
            f"| {row['name']} | {row['workers']} | {row['images'][1]:,} | "
            f"{row['cpu_ms_per_image']:.3f} | {ratio} | "
            f"{row['fixed_cpu_s']:.1f} | {row['memory_mb']:.0f} | {row['images_per_s']:.0f} |"
        )
    for row in result["starter"]:
        lines += [""] if row is result["starter"][0] else []
        lines.append(
            f"- `caption` with the starter, {row['name']}, {row['images']:,} images of 224 px: "
            f"{row['seconds']:.1f} s, {row['cpu_s']:.1f} s of processor time, "
            f"{row['memory_mb']:.0f} MB"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
