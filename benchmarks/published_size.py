"""Make and export a captioner of the published size with random weights.

    python benchmarks/published_size.py --work /tmp/published [--config altogether-opt-1.3b]

Needs about 15 GB of disk and 16 GB of memory. Writes benchmarks/results/published-size.json: wall
time and peak memory of each command, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from altogether_rt.bench.report import describe_machine

RESULTS = Path(__file__).parent / "results" / "published-size.json"


def measured(name: str, *arguments: str | Path) -> dict[str, Any]:
    """Run `altogether-rt ARGUMENTS`; its time and peak memory. Exits if it fails."""
    command = [sys.executable, "-m", "altogether_rt.cli.main", *map(str, arguments)]
    start = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    if status:
        raise SystemExit(f"{name} failed with status {os.waitstatus_to_exitcode(status)}")
    return {
        "command": " ".join(["altogether-rt", *map(str, arguments)]),
        "wall_s": round(seconds, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_gb": round(usage.ru_maxrss * _MAXRSS_UNIT / 1e9, 2),
    }


#: ru_maxrss is in kilobytes on Linux and in bytes on macOS.
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for 15 GB of files")
    parser.add_argument("--config", default="altogether-opt-1.3b")
    parser.add_argument("--target", default="cpu-int8")
    parser.add_argument(
        "--sm", help="for tensorrt targets: GPUs to compile engines for, such as 89"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    checkpoint, bundle = arguments.work / "checkpoint", arguments.work / "bundle"
    steps: dict[str, Any] = {}
    config = ("--config", arguments.config)
    if not checkpoint.exists():
        steps["init"] = measured("init", "init", *config, "--random-weights", "--out", checkpoint)
    export = ("--ckpt", checkpoint, "--target", arguments.target, "--out", bundle, "--overwrite")
    export += ("--sm", arguments.sm) if arguments.sm else ()
    steps["export"] = measured("export", "export", *export)
    result = {
        "machine": describe_machine(),
        "config": arguments.config,
        "steps": steps,
        "bundle_bytes": sum(f.stat().st_size for f in bundle.iterdir()),
        "parity": json.loads((bundle / "bundle.json").read_text("utf-8"))["parity"],
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
