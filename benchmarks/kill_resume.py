"""Kill `altogether-rt caption` at random moments and check that no row is lost or doubled.

    python benchmarks/kill_resume.py DIR [--alt FILE] [--kills 20] [--seed 0] [-- OPTION ...]

Each kill (SIGKILL, at a moment drawn from the time that an undisturbed run takes) is followed by a
rerun of the same command. The finished file must have the same bytes as the undisturbed run's.
Options after `--` go to `caption`. Prints one JSON line; exits with 1 if the bytes differ.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

__all__ = ["kill_and_rerun", "main"]


def command(arguments: argparse.Namespace, out: Path) -> list[str]:
    alt = ["--alt", arguments.alt] if arguments.alt else []
    program = [sys.executable, "-m", "altogether_rt.cli.main", "caption", arguments.folder]
    return [*program, *alt, "--out", str(out), "--quiet", *arguments.options]


def kill_and_rerun(run: list[str], out: Path, duration_s: float, rng: random.Random) -> bool:
    """Start a run, kill it at a random moment, run it again to its end; whether it was killed.

    Every round starts from nothing: `out` and its journal are removed first.
    """
    for path in (out, Path(f"{out}.part")):
        path.unlink(missing_ok=True)
    process = subprocess.Popen(run)
    try:
        process.wait(timeout=rng.uniform(0.0, duration_s))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    killed = process.wait() == -signal.SIGKILL
    subprocess.run(run, check=True)
    return killed


def kill_through(run: list[str], out: Path, duration_s: float, rng: random.Random) -> int:
    """Finish one file with runs that are killed again and again; returns the number of kills."""
    for path in (out, Path(f"{out}.part")):
        path.unlink(missing_ok=True)
    kills = 0
    while not out.exists():
        process = subprocess.Popen(run)
        try:
            process.wait(timeout=rng.uniform(0.3, 1.0) * duration_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill caption runs and compare the results.")
    parser.add_argument("folder")
    parser.add_argument("--alt")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    arguments = parser.parse_args(given[:end])
    arguments.options = given[end + 1 :]
    rng = random.Random(arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="kill-resume-"))
    undisturbed, out = folder / "undisturbed.jsonl", folder / "killed.jsonl"
    start = time.monotonic()
    subprocess.run(command(arguments, undisturbed), check=True)
    duration_s = time.monotonic() - start
    expected = undisturbed.read_bytes()
    run = command(arguments, out)
    kills = different = rounds = 0
    while kills < arguments.kills and rounds < 3 * arguments.kills:
        rounds += 1
        kills += kill_and_rerun(run, out, duration_s, rng)
        different += out.read_bytes() != expected
    in_a_row = kill_through(run, out, duration_s, rng)
    different += out.read_bytes() != expected
    result = {
        "kills": kills,
        "kills_in_a_row": in_a_row,
        "rows": expected.count(b"\n"),
        "undisturbed_s": round(duration_s, 2),
        "different": different,
    }
    print(json.dumps(result))
    shutil.rmtree(folder)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
