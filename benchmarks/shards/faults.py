"""Each thing that can go wrong, done to ours and to others."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from benchmarks.shards import object_store, readers
from benchmarks.shards.damage import FAULTS, make_faulty
from benchmarks.shards.outcome import OURS, Outcome, count_rows, made_again

__all__ = ["Study"]

#: Of each caption, so that there are random moments.
DELAY_S = 0.004

#: Kills in one run of 20 shards.
KILLS_A_RUN = 10

#: A process is killed within so many seconds of its first caption.
LIVES_S = 3.0

#: What is known of the loop is known after a few.
KILLS_OF_OTHERS = 5

#: Seconds in which a run must end.
TIMEOUT_S = 240


class Study:
    """Shards, and what is done to those who caption them."""

    def __init__(self, inputs: Path, work: Path, part_rows: int, rng: random.Random) -> None:
        self._inputs = inputs
        self._work = work
        self._part_rows = part_rows
        self._rng = rng
        self._whole: dict[str, bytes] = {}
        self._keys = readers.keys_of(inputs)

    # -- kills

    def kills(self, victim: str, kills: int) -> list[Outcome]:
        """A worker, driver or writer is killed at random moments; the loop's less often."""
        self._undisturbed()
        fewer = min(kills, KILLS_OF_OTHERS)
        return [self._killed(OURS, victim, kills), self._killed("loop", victim, fewer)]

    def _killed(self, contestant: str, victim: str, kills: int) -> Outcome:
        outcome = Outcome(f"kill -9 of a {victim}", contestant, 0, 0, 0, 0, reruns=0)
        outcome.same_bytes = True if contestant == OURS else None
        rounds = 0
        while outcome.times < kills and rounds < 3 * kills:
            rounds += 1
            out, log = self._fresh(contestant)
            self._until_done(outcome, contestant, victim, min(kills, outcome.times + KILLS_A_RUN),
                             out, log)  # fmt: skip
            self._count(outcome, out, log)
        return outcome

    def _until_done(
        self, outcome: Outcome, contestant: str, victim: str, kills: int, out: Path, log: Path
    ) -> None:
        workers = 1 if victim == "writer" else 2
        command = self._command(contestant, self._inputs, out, log, workers)
        while True:
            process, children = _start(command), []
            deadline = time.monotonic() + TIMEOUT_S
            while outcome.times < kills and self._wait_for_rows(process, log):
                time.sleep(self._rng.uniform(0.0, LIVES_S))
                children = _workers_of(process.pid)
                if victim != "worker":
                    killed = process.pid
                elif children:
                    killed = self._rng.choice(children)
                else:
                    continue
                if process.poll() is not None:
                    continue
                with suppress(ProcessLookupError):
                    os.kill(killed, signal.SIGKILL)
                    outcome.times += 1
                if victim != "worker":
                    break
            code = process.wait(max(1.0, deadline - time.monotonic()))
            if stayed := _end_orphans(children):
                outcome.told = f"{stayed} workers stayed and were ended by hand"
            if code == 0:
                return
            outcome.reruns = (outcome.reruns or 0) + 1

    def _wait_for_rows(self, process: subprocess.Popen[bytes], log: Path) -> bool:
        """Whether captions are being made; False if the process ended first."""
        size = log.stat().st_size if log.exists() else 0
        deadline = time.monotonic() + TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and log.stat().st_size > size:
                return True
            time.sleep(0.01)
        return False

    # -- between two system calls

    def system_calls(self) -> list[Outcome]:
        """Kill the writer before each of its system calls, and in the middle of each write."""
        from tests.jobs.shards.kill_points import try_all

        outcomes = []
        for name, retry, twice in (
            ("", False, None),
            (", errors tried again", True, None),
            (", and the next one", False, 1),
        ):
            folder = _empty(self._work / "calls")
            found = try_all(folder, retry=retry, every=1, twice=twice)
            outcomes.append(
                Outcome(
                    f"kill -9 between two system calls of the writer{name}",
                    OURS,
                    found["kills"],
                    0,
                    0,
                    None,
                    not found["bad"],
                    f"at most {found['most_made_again']} captions made again in one try, parts of "
                    "8 rows",
                )
            )
        return outcomes

    # -- faulty tars

    def faulty_tars(self) -> list[Outcome]:
        """One shard of 20 is faulty."""
        outcomes = []
        for fault in FAULTS:
            inputs, expected = self._with_fault(fault)
            for contestant in (OURS, "loop"):
                out, log = self._fresh(contestant)
                command = self._command(contestant, inputs, out, log, 2)
                done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
                lost, doubled = count_rows(out.glob("*.parquet"), expected)
                outcome = Outcome(fault, contestant, 1, lost, doubled, made_again(log))
                outcome.told = _told(done, out)
                outcomes.append(outcome)
            outcomes.append(readers.webdataset(fault, inputs, expected))
        return outcomes

    def _with_fault(self, fault: str) -> tuple[Path, set[str]]:
        folder = self._work / f"in {fault}".replace(" ", "-")
        shutil.copytree(self._inputs, _empty(folder), dirs_exist_ok=True)
        broken = sorted(self._inputs.glob("*.tar"))[7]
        left = make_faulty(broken, folder, fault)
        gone = {key for key in self._keys if key.startswith(broken.stem)} - left
        return folder, self._keys - gone

    # -- disks and stores

    def full_disk(self) -> list[Outcome]:
        """Files may not grow beyond what a part takes; then they may, and the command again."""
        self._undisturbed()
        outcomes = []
        for contestant in (OURS, "loop"):
            out, log = self._fresh(contestant)
            command = self._command(contestant, self._inputs, out, log, 2)
            room = 7168 if contestant == OURS else 1024
            limited = ["prlimit", f"--fsize={room}", *command]
            if contestant == OURS:
                limited = [*command, "--file-bytes", str(room)]
            failed = subprocess.run(limited, capture_output=True, text=True, timeout=TIMEOUT_S)
            partly = len(list(out.glob("*.parquet")))
            subprocess.run(command, check=True, timeout=TIMEOUT_S)
            outcome = Outcome("full disk, then a rerun", contestant, 1, 0, 0, 0, reruns=1)
            outcome.same_bytes = True if contestant == OURS else None
            self._count(outcome, out, log)
            outcome.told = (
                f"exit code {failed.returncode}, {partly} files after the first run: "
                f"{_last_line(failed.stderr)}"
            )
            outcomes.append(outcome)
        return outcomes

    def flaky_store(self) -> list[Outcome]:
        """Shards and captions on an object store that fails one request in ten."""
        whole, _ = self._fresh(OURS)
        with object_store.flaky_bucket(self._inputs, one_in=10) as (bucket, environment, server):
            inputs = f"{bucket}/in"
            command = self._command(OURS, inputs, f"{bucket}/whole", self._work / "log-whole", 1)
            subprocess.run(command, check=True, timeout=TIMEOUT_S, stdout=subprocess.DEVNULL)
            object_store.download(bucket, "whole", whole)
            expected = _files(whole)
            out, log = self._fresh(OURS)
            command = self._command(OURS, inputs, f"{bucket}/out", log, 2)
            outcome = Outcome("S3 that fails 1 request in 10", OURS, 0, 0, 0, 0, reruns=0)
            for _ in range(10):
                done = subprocess.run(
                    command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
                )
                if done.returncode == 0:
                    break
                outcome.reruns = (outcome.reruns or 0) + 1
                outcome.told = _last_line(done.stderr)
            object_store.download(bucket, "out", out)
            outcome.times = server.num_failed
            said = f"{server.num_requests:,} requests"
            outcome.told = f"{said}; {outcome.told}" if outcome.told else said
        self._count(outcome, out, log)
        outcome.same_bytes = _files(out) == expected
        return [outcome]

    def ray_rows(self) -> list[Outcome]:
        """Ray's row pipeline: the same tars, and a driver that is killed."""
        tars = [(fault, *self._with_fault(fault)) for fault in FAULTS]
        return readers.ray_rows(tars, self._inputs, self._keys, _empty(self._work / "ray"))

    # -- what all have in common

    def _undisturbed(self) -> None:
        if not self._whole:
            out, log = self._fresh(OURS)
            command = self._command(OURS, self._inputs, out, log, 1)
            subprocess.run(command, check=True, timeout=TIMEOUT_S, stdout=subprocess.DEVNULL)
            self._whole = _files(out)

    def _count(self, outcome: Outcome, out: Path, log: Path) -> None:
        lost, doubled = count_rows(out.glob("*.parquet"), self._keys)
        outcome.lost += lost
        outcome.doubled += doubled
        outcome.made_again = (outcome.made_again or 0) + made_again(log)
        if outcome.same_bytes is not None:
            outcome.same_bytes &= _files(out) == self._whole
            if errors := _error_rows(out):
                outcome.told = f"rows with an error: {errors}"

    def _fresh(self, contestant: str) -> tuple[Path, Path]:
        out, log = _empty(self._work / f"out-{contestant}"), self._work / f"log-{contestant}"
        log.unlink(missing_ok=True)
        return out, log

    def _command(
        self, contestant: str, inputs: Path | str, out: Path | str, log: Path, workers: int
    ) -> list[str]:
        module = "ours" if contestant == OURS else "naive"
        command = [sys.executable, "-m", f"benchmarks.shards.{module}", str(inputs), str(out)]
        command += ["--workers", str(workers), "--delay", str(DELAY_S), "--log", str(log)]
        return command + (["--part-rows", str(self._part_rows)] if contestant == OURS else [])


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _workers_of(pid: int) -> list[int]:
    """Processes that multiprocessing started for `pid`."""
    workers = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in (path / "cmdline").read_bytes():
                workers.append(int(path.name))
    return workers


def _end_orphans(workers: list[int]) -> int:
    """End workers that are there ten seconds after their driver; returns how many."""
    deadline = time.monotonic() + 10
    while workers and time.monotonic() < deadline:
        workers = [pid for pid in workers if _is_worker(pid)]
        time.sleep(0.1)
    for pid in workers:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(workers)


def _is_worker(pid: int) -> bool:
    with suppress(OSError):
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _told(done: subprocess.CompletedProcess[str], out: Path) -> str:
    bad = [path.name for path in out.glob("*_stats.json") if '"incomplete"' in path.read_text()]
    said = f"exit code {done.returncode}"
    if bad:
        said += f", {', '.join(bad)} says `incomplete`"
    errors = _error_rows(out)
    if errors:
        said += f", rows with an error: {errors}"
    last = _last_line(done.stderr)
    return f"{said}: {last}" if last else said


def _error_rows(out: Path) -> str:
    """Errors in our files, counted by class."""
    found: Counter[str] = Counter()
    for path in out.glob("*_stats.json"):
        for kind, count in json.loads(path.read_text())["status_dict"].items():
            if kind != "success":
                found[kind] += count
    return ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"[|`]", " ", lines[-1])[:160] if lines else ""


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.parquet")}
