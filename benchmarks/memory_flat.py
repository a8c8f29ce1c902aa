"""Caption a folder of many tiny images and watch the memory of the process.

    python benchmarks/memory_flat.py WORK [--num 100000] [--seed 0] [-- OPTION ...]

Draws the images, all different, into a tree of folders under WORK (existing ones are used again),
each with an alt-text of its own, and runs `altogether-rt caption` on them as a process of its own;
options after `--` go to it. Memory is the resident set size (RSS) of the process and its workers.
Processor time is that of the same processes; it says more than the clock on a busy machine. Ctrl-C
ends the run and reports it up to that point. Writes benchmarks/results/memory-flat.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from altogether_rt.bench.report import describe_machine

RESULTS = Path(__file__).parent / "results" / "memory-flat.json"

SIDE = 64
PER_FOLDER = 1000
WORDS = (
    "red",
    "green",
    "small",
    "boat",
    "lamp",
    "bell",
    "fish",
    "at night",
    "by",
    "Marigold",
    "of",
)


def make_images(folder: Path, num: int, seed: int) -> Path:
    """`num` JPEG and PNG files of smooth colours under `folder`, and their alt-texts."""
    alts = folder / "alts.jsonl"
    if alts.exists():
        return alts
    rng = np.random.default_rng(seed)
    lines = []
    for index in range(num):
        name = f"{index // PER_FOLDER:04}/{index:06}.{'png' if index % 8 == 0 else 'jpg'}"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        colours = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        colours.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
        words = [WORDS[i] for i in rng.integers(0, len(WORDS), rng.integers(2, 12))]
        lines.append(json.dumps({"file_name": name, "alt": f"{' '.join(words)} {index}"}) + "\n")
    alts.write_text("".join(lines))
    return alts


@dataclass(frozen=True)
class Sample:
    """The state of a run at one moment."""

    seconds: float
    rows: int
    rss_bytes: int
    cpu_s: float


def family(pid: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def rss_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watch(run: subprocess.Popen[bytes], journal: Path) -> Iterator[Sample]:
    """A sample every half second, until the run is over."""
    start, rows, offset = time.monotonic(), 0, 0
    while run.poll() is None:
        try:
            with journal.open("rb") as file:
                file.seek(offset)
                new = file.read()
            processes = family(run.pid)
            rss, cpu = sum(map(rss_bytes, processes)), sum(map(cpu_s, processes))
        except OSError:  # not started yet, or just over
            time.sleep(0.1)
            continue
        offset, rows = offset + len(new), rows + new.count(b"\n")
        yield Sample(time.monotonic() - start, rows, rss, cpu)
        time.sleep(0.5)


def by_rows(samples: list[Sample], every: int) -> list[dict[str, Any]]:
    """The first sample at each multiple of `every` rows, and the last, with rates since."""
    picked: list[Sample] = []
    for sample in samples:
        if sample.rows >= every * len(picked):
            picked.append(sample)
    if picked[-1] is not samples[-1]:
        picked.append(samples[-1])
    table = []
    for before, sample in zip([picked[0], *picked], picked, strict=False):
        rows, seconds = sample.rows - before.rows, sample.seconds - before.seconds
        table.append(
            {
                "rows": sample.rows,
                "rss_mb": round(sample.rss_bytes / 1e6, 1),
                "images_per_s": round(rows / seconds, 1) if rows else None,
                "cpu_ms_per_image": (
                    round(1000 * (sample.cpu_s - before.cpu_s) / rows, 2) if rows else None
                ),
            }
        )
    return table


def split_options(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Arguments of this script, and those after `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:end], arguments[end + 1 :]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--num", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULTS)
    ours, options = split_options(sys.argv[1:])
    arguments = parser.parse_args(ours)
    folder = arguments.work / f"images-{arguments.num}-{arguments.seed}"
    alts = make_images(folder, arguments.num, arguments.seed)
    out = arguments.work / "memory-flat.jsonl"
    out.unlink(missing_ok=True)
    Path(f"{out}.part").unlink(missing_ok=True)
    command = ["caption", str(folder), "--alt", str(alts), "--out", str(out), "--json", "--quiet"]
    command += options
    run = subprocess.Popen(
        [sys.executable, "-m", "altogether_rt.cli.main", *command], stdout=subprocess.PIPE
    )
    samples: list[Sample] = []
    try:
        samples.extend(watch(run, Path(f"{out}.part")))
    except KeyboardInterrupt:
        run.send_signal(signal.SIGINT)
    assert run.stdout is not None
    printed = run.stdout.read()
    run.wait()
    summary = json.loads(printed) if printed else {"captioned": samples[-1].rows}
    after_5000 = next(sample for sample in samples if sample.rows >= 5000)
    result = {
        "command": " ".join(
            ["python benchmarks/memory_flat.py WORK", f"--num {arguments.num}", "--", *options]
        ),
        "caption_options": options,
        "machine": describe_machine(),
        "images": arguments.num,
        "captioned": summary["captioned"],
        "seconds": round(samples[-1].seconds, 1),
        "stage_seconds": {k: summary[k] for k in summary if k.endswith("_s")},
        "rss_mb_after_5000": round(after_5000.rss_bytes / 1e6, 1),
        "rss_mb_at_the_end": round(samples[-1].rss_bytes / 1e6, 1),
        "rss_mb_at_most": round(max(sample.rss_bytes for sample in samples) / 1e6, 1),
        "growth_percent": round(100 * (samples[-1].rss_bytes / after_5000.rss_bytes - 1), 2),
        "by_rows": by_rows(samples, 10_000 if arguments.num >= 50_000 else 1000),
    }
    arguments.result.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "by_rows"}))
    shown = abs(result["growth_percent"]) <= 5 and summary["captioned"] == arguments.num
    sys.exit(0 if shown else 1)


if __name__ == "__main__":
    main()
