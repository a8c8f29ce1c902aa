"""The state of a folder of captions, from its names and statistics alone."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from altogether_rt.data.problems import Problems
from altogether_rt.data.sinks.shards.claims import read_claim
from altogether_rt.data.sinks.shards.open_store import open_store
from altogether_rt.data.sinks.shards.output import ROWS_SUFFIX, WORK_FOLDER, error_name
from altogether_rt.data.sinks.shards.run_file import RUN_FILE, read_run, read_shards, run_id_of
from altogether_rt.data.sinks.shards.stats import RowCounts, all_stats
from altogether_rt.data.sinks.shards.store import OutputStore
from altogether_rt.errors import AltogetherError

__all__ = ["STATES", "RunStatus", "read_status"]

#: States of a shard. running: a process has it. stopped: it has rows, and no process. missing:
#: nothing is there.
STATES = ("done", "incomplete", "limited", "failed", "running", "stopped", "missing")

_STATS_SUFFIX = "_stats.json"
_ERROR_SUFFIX = "_error.json"
_PART = re.compile(rf"{WORK_FOLDER}/(.+)/\d+-(\d+)\.arrow")
_CLAIM = re.compile(rf"{WORK_FOLDER}/(.+)/claim\.json")


@dataclass
class RunStatus:
    """How far a run over shards has come."""

    shards: Counter[str] = field(default_factory=Counter)  # by state
    counts: RowCounts = field(default_factory=RowCounts)  # of finished files
    num_durable: int = 0  # rows of shards that are being captioned
    bad: dict[str, Problems] = field(default_factory=dict)  # by state
    seconds: float = 0.0  # that the finished shards took, one after another
    num_expected: int | None = None  # rows of the shards without a file; None: cannot be told

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all is done, with as many processes as there are now; None: not known."""
        if self.num_expected is None or not self.counts.rows or not self.seconds:
            return None
        processes = max(1, self.shards["running"])
        left = max(0, self.num_expected - self.num_durable)
        return left * self.seconds / self.counts.rows / processes


def read_status(out: str | Path) -> RunStatus:
    """The state of a run. Raises AltogetherError if there is none in `out`."""
    store = open_store(out)
    run = read_run(store)
    if run is None:
        raise AltogetherError(
            f"there is no {RUN_FILE} in {out}: name the folder that caption wrote to."
        )
    return _Reading(store, run_id_of(run)).status


class _Reading:
    """The names in a store, and what they say."""

    def __init__(self, store: OutputStore, run_id: str) -> None:
        self._store = store
        self._run_id = run_id
        self.status = RunStatus()
        self._with_stats: list[str] = []
        self._with_rows: set[str] = set()
        self._of_others: set[str] = set()  # with captions of another run
        self._lost: set[str] = set()  # with statistics of captions that are gone
        self._failed: list[str] = []
        self._others: list[str] = []  # files of the run itself
        self._claimed: list[str] = []
        self._durable: dict[str, int] = defaultdict(int)
        self._sort_names()
        finished = self._count_finished()
        self._count_others(finished)

    def _sort_names(self) -> None:
        for name in self._store.all_files():
            if name.endswith(_STATS_SUFFIX):
                self._with_stats.append(name.removesuffix(_STATS_SUFFIX))
            elif name.endswith(ROWS_SUFFIX):
                self._with_rows.add(name.removesuffix(ROWS_SUFFIX))
            elif name.endswith(_ERROR_SUFFIX):
                self._failed.append(name.removesuffix(_ERROR_SUFFIX))
            elif (match := _PART.fullmatch(name)) is not None:
                shard, stop = match.groups()
                self._durable[shard] = max(self._durable[shard], int(stop))
            elif (match := _CLAIM.fullmatch(name)) is not None:
                self._claimed.append(match.group(1))
            elif "/" not in name:
                self._others.append(name)

    def _count_finished(self) -> set[str]:
        finished = set()
        for shard, stats in all_stats(self._store, sorted(self._with_stats)):
            if stats is None:
                continue
            if stats.run_id != self._run_id:
                self._of_others.add(shard)
                continue
            if shard not in self._with_rows:
                self._lost.add(shard)
                continue
            finished.add(shard)
            self.status.seconds += stats.duration
            self.status.counts.merge(stats.counts)
            self._count(stats.state, shard, stats.explanation)
        return finished

    def _count_others(self, finished: set[str]) -> None:
        known = read_shards(self._store, self._others)
        running = set()
        for shard in self._claimed:
            claim = read_claim(self._store, f"{WORK_FOLDER}/{shard}/claim.json")
            if claim is not None and not claim.is_stale:
                running.add(shard)
        begun = {*self._claimed, *self._durable}
        others = {*known, *self._failed, *begun, *self._lost, *self._of_others} - finished
        for shard in sorted(others):
            if shard in running:
                self._count("running", shard)
            elif shard in self._failed:
                self._count("failed", shard, self._reason(shard))
            elif shard in begun:
                self._count("stopped", shard)
            else:
                other = f"{shard} (its captions are of another run)"
                self._count("missing", shard, other if shard in self._of_others else "")
        self.status.num_durable = sum(self._durable[shard] for shard in others & begun)
        self.status.num_expected = self._rows_of(others, known)

    def _rows_of(self, shards: Iterable[str], known: dict[str, int | None]) -> int | None:
        """Rows that shards should have: as they say, or as many as those that are finished."""
        finished = self.status.shards["done"] + self.status.shards["incomplete"]
        usual = self.status.counts.rows / finished if finished else None
        total = 0.0
        for shard in shards:
            said = known.get(shard)
            rows = usual if said is None else said
            if rows is None:
                return None
            total += rows
        return round(total)

    def _count(self, state: str, shard: str, reason: str = "") -> None:
        self.status.shards[state] += 1
        if state in ("incomplete", "failed", "stopped", "missing", "limited"):
            self.status.bad.setdefault(state, Problems()).add(reason or shard)

    def _reason(self, shard: str) -> str:
        try:
            return str(json.loads(self._store.read(error_name(shard)) or b"{}")["error"])
        except (KeyError, TypeError, ValueError):
            return shard
