"""Kills the writer of a shard between any two of its system calls, and lets another one go on.

    python -m tests.jobs.shards.kill_points [--retry] [--every N] [--twice SEED]

The k-th call (of those that change files, and of the parts of each write) kills the process with
SIGKILL; then the shard is captioned again. Its file must have the bytes of an undisturbed run, and
no more than a part may have been captioned twice. Prints one JSON line; exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from altogether_rt.data.shards.base import Shard
from altogether_rt.data.sinks.shards.stats import RowCounts
from tests.fake_captioner import FakeCaptioner
from tests.jobs.shards.stand_ins import Faded, job_for, make_tars

PART_ROWS = 8
NUM_SAMPLES = 30

#: Functions of `os` that the writer calls, directly or through `pathlib`.
_CALLS = ("open", "close", "fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir")


class KillPoints:
    """Counts calls, and kills the process before the `last`."""

    def __init__(self, last: int | None) -> None:
        self.count = 0
        self._last = last

    def hit(self, at_death: Callable[[], object] = lambda: None) -> None:
        self.count += 1
        if self.count == self._last:
            at_death()
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        setattr(os, "fsync", lambda descriptor: None)  # noqa: B010  # kills lose nothing
        for name in _CALLS:
            setattr(os, name, self._counted(getattr(os, name)))
        fdopen = os.fdopen
        setattr(os, "fdopen", lambda *given: _Torn(fdopen(*given), self))  # noqa: B010

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.hit()
            return call(*arguments, **options)

        return counted


class _Torn:
    """A file whose writes may be cut in the middle."""

    def __init__(self, file: Any, points: KillPoints) -> None:
        self._file = file
        self._points = points

    def write(self, data: Any) -> int:
        def write_half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._points.hit(write_half)
        return int(self._file.write(data))

    def __enter__(self) -> _Torn:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def caption(shard: Shard, out: Path, kill_at: int | None, **options: Any) -> dict[str, Any] | None:
    """Caption a shard in a process of its own: what it did; None if it was killed."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        report = _caption_here(shard, out, kill_at, write_end, options)
        os.write(write_end, json.dumps(report).encode() + b"\n")
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as file:
        lines = [json.loads(line) for line in file]
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    return {"killed": killed, "captioned": sum(line == 1 for line in lines)} | (
        {} if killed else lines[-1]
    )


def _caption_here(
    shard: Shard, out: Path, kill_at: int | None, write_end: int, options: dict[str, Any]
) -> dict[str, Any]:
    from altogether_rt.data.sinks.shards.open_store import open_store
    from altogether_rt.jobs.executor import LocalExecutor
    from altogether_rt.jobs.shards.plan import ShardTask
    from altogether_rt.jobs.shards.shard import caption_shard

    def tell(made: RowCounts) -> None:
        write(write_end, b"1\n")

    captioner, write = FakeCaptioner(), os.write
    job = job_for(out, part_rows=PART_ROWS, **options)
    points = KillPoints(kill_at)
    points.install()
    result = caption_shard(
        ShardTask(shard),
        job,
        open_store(job.out),
        LocalExecutor(captioner),
        tell,
    )
    return {"state": result.state, "calls": points.count, "new": result.num_new}


def files_of(out: Path) -> dict[str, bytes]:
    """Every file of an output that does not tell the time."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and not path.name.endswith("_stats.json")
    }


def try_all(folder: Path, *, retry: bool, every: int, twice: int | None) -> dict[str, Any]:
    """Kill at every `every`-th call, and then, with a seed `twice`, at a random one of the next."""
    # Imported before the processes are made, and not in each of them.
    for module in ("pyarrow.compute", "pyarrow.ipc", "pyarrow.parquet", "PIL.PngImagePlugin"):
        importlib.import_module(module)
    (shard,) = make_tars(folder / "in", 1, NUM_SAMPLES)
    before: Path | None = None
    options: dict[str, Any] = {}
    if retry:  # what is disturbed is the second run, which tries errors again
        before, options = folder / "before", {"retry_errors": True}
        caption(shard, before, None, open_shard=Faded)
    undisturbed = folder / "undisturbed"
    _start_from(before, undisturbed)
    whole = caption(shard, undisturbed, None, **options)
    assert whole is not None and whole["state"] == "done"
    expected = files_of(undisturbed)
    rng = random.Random(twice)
    bad: list[int] = []
    most_again = kills = 0
    for kill_at in range(1, whole["calls"] + 1, every):
        out = folder / "out"
        _start_from(before, out)
        runs = [caption(shard, out, kill_at, **options)]
        if twice is not None:
            runs.append(caption(shard, out, rng.randint(1, whole["calls"]), **options))
        runs.append(caption(shard, out, None, **options))
        killed = sum(run["killed"] for run in runs if run is not None)
        kills += killed
        again = sum(run["captioned"] for run in runs if run is not None) - whole["captioned"]
        most_again = max(most_again, again)
        fine = files_of(out) == expected and len(list(out.rglob("*_stats.json"))) == 1
        if not fine or again > killed * PART_ROWS:
            bad.append(kill_at)
    return {"calls": whole["calls"], "kills": kills, "bad": bad, "most_made_again": most_again}


def _start_from(before: Path | None, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    if before is not None:
        shutil.copytree(before, out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill the writer of a shard at each of its calls.")
    parser.add_argument("--retry", action="store_true")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--twice", type=int)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = try_all(Path(folder), retry=given.retry, every=given.every, twice=given.twice)
    print(json.dumps(found))
    sys.exit(1 if found["bad"] else 0)


if __name__ == "__main__":
    main()
