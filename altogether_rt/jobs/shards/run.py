"""A run over many shards: which are to be done, and what became of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from altogether_rt.data.problems import Problems
from altogether_rt.data.shards.base import Shard
from altogether_rt.data.sinks.shards.foreign import check_outputs
from altogether_rt.data.sinks.shards.open_store import open_store
from altogether_rt.data.sinks.shards.output import (
    WORK_FOLDER,
    clear_work,
    error_name,
    parquet_name,
)
from altogether_rt.data.sinks.shards.run_file import join_run, record_shards
from altogether_rt.data.sinks.shards.stats import (
    RowCounts,
    ShardStats,
    all_stats,
    stats_name,
)
from altogether_rt.generation.engine import EngineStats
from altogether_rt.jobs.shards.engine import OnRows, ShardEngine
from altogether_rt.jobs.shards.plan import ShardJob, ShardResult, ShardTask, finished_result

__all__ = ["RunPlan", "ShardSummary", "caption_shards", "plan_run"]

#: Seconds for which a run waits for shards that other processes have, once it has no others.
_WAIT_FOR_OTHERS_S = 15.0
_POLL_S = 1.0


@dataclass
class ShardSummary:
    """What a run over shards did, and what it found done."""

    shards: Counter[str] = field(default_factory=Counter)  # by state, those of earlier runs too
    counts: RowCounts = field(default_factory=RowCounts)  # of all rows that are in finished files
    num_new: int = 0  # rows made by this run
    num_skipped: int = 0  # shards that were finished before
    bad: dict[str, Problems] = field(default_factory=dict)  # why, for shards that are not done
    changed: Problems = field(default_factory=Problems)  # finished, and their input is another now
    num_replaced: int = 0  # of these, whose samples have no rows for certain
    seconds: float = 0.0
    engine: EngineStats = field(default_factory=EngineStats)

    def add_finished(self, stats: ShardStats, shard: Shard) -> None:
        """Count a shard that was finished before."""
        self.num_skipped += 1
        self.add(finished_result(ShardTask(shard), stats))

    def add(self, result: ShardResult) -> None:
        """Count what became of a shard."""
        self.shards[result.state] += 1
        self.counts.merge(result.counts)
        self.num_new += result.num_new
        if result.changed:
            self.changed.add(result.shard)
        self.num_replaced += result.replaced
        if result.state != "done":
            self.bad.setdefault(result.state, Problems()).add(result.message or result.shard)


@dataclass(frozen=True)
class RunPlan:
    """What a run has to do."""

    shards: Sequence[Shard]
    finished: dict[str, ShardStats]  # statistics of shards about which nothing is to be done

    @property
    def unfinished(self) -> list[Shard]:
        """Shards that are to be captioned."""
        return [shard for shard in self.shards if shard.name not in self.finished]

    @property
    def num_expected(self) -> int | None:
        """Rows that are to be made; None if some shard does not say how many it has."""
        counts = [shard.num_expected for shard in self.unfinished]
        return None if None in counts else sum(count or 0 for count in counts)

    def shard(self, name: str) -> Shard:
        """The shard of a name."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Shard]:
        return {shard.name: shard for shard in self.shards}


def plan_run(shards: Sequence[Shard], job: ShardJob, *, only_missing: bool = False) -> RunPlan:
    """Open the output of a run and find what is done.

    only_missing: leave shards alone that are incomplete, or that failed. Raises AltogetherError if
    the output belongs to another run, or captions would replace anything but captions.
    """
    store = open_store(job.out)
    check_outputs(store, shards, job.run_id)
    join_run(store, job.run, overwrite=job.overwrite)
    there = set(store.all_files())
    record_shards(store, shards, there)
    with_stats = [
        shard.name
        for shard in shards
        if stats_name(shard.name) in there and parquet_name(shard.name) in there
    ]
    by_name = {shard.name: shard for shard in shards}
    finished = {}
    for name, stats in all_stats(store, with_stats):
        if stats is None:
            continue
        task = ShardTask(by_name[name])
        current = stats.run_id == job.run_id
        if job.is_finished(task, stats) or (only_missing and current):
            finished[name] = stats
    for name in {_shard_of_work(file) for file in there} & finished.keys():
        clear_work(store, name)
    if only_missing:
        shards = [
            shard
            for shard in shards
            if shard.name in finished or error_name(shard.name) not in there
        ]
    return RunPlan(shards, finished)


def _shard_of_work(file: str) -> str:
    """The shard that a file of unfinished work is of; empty for any other file."""
    if not file.startswith(f"{WORK_FOLDER}/"):
        return ""
    return file.removeprefix(f"{WORK_FOLDER}/").rpartition("/")[0]


def caption_shards(
    plan: RunPlan,
    job: ShardJob,
    engine: ShardEngine,
    *,
    limit: int | None = None,
    on_rows: OnRows = lambda made: None,
    on_result: Callable[[ShardResult], None] = lambda result: None,
) -> ShardSummary:
    """Do what `plan_run` found is to be done.

    limit: the first so many samples of all shards together. on_rows: told of rows as they are made.
    on_result: told what became of each shard. Raises AltogetherError or OSError if the run cannot
    go on. Whatever stops it, doing it again goes on from there.
    """
    start = time.monotonic()
    run = _Run(plan, job, engine, on_rows, on_result)
    if limit is None:
        run.caption(ShardTask(shard) for shard in plan.unfinished)
    else:
        run.caption_first(limit)
    run.wait_for_others()
    run.summary.seconds = time.monotonic() - start
    return run.summary


class _Run:
    """The state of one `caption_shards`."""

    def __init__(
        self,
        plan: RunPlan,
        job: ShardJob,
        engine: ShardEngine,
        on_rows: OnRows,
        on_result: Callable[[ShardResult], None],
    ) -> None:
        self._plan = plan
        self._job = job
        self._engine = engine
        self._on_rows = on_rows
        self._on_result = on_result
        self._given: dict[str, ShardTask] = {}
        self._busy: list[ShardTask] = []  # other processes have them
        self.summary = ShardSummary()
        for stats in plan.finished.values():
            self.summary.add_finished(stats, plan.shard(stats.shard))

    def caption(self, tasks: Iterable[ShardTask]) -> None:
        """Caption shards, and remember those that other processes have."""
        self.summary.engine = self._engine.run(
            self._noted(tasks), self._job, self._on_rows, self._take
        )

    def caption_first(self, limit: int) -> None:
        """Caption the first samples of all shards, one shard after another."""
        for shard in self._plan.shards:
            before = self.summary.counts.rows
            if shard.name in self._plan.finished:
                limit -= self._plan.finished[shard.name].counts.rows
            elif limit > 0:
                self.caption([ShardTask(shard, limit)])
                limit -= self.summary.counts.rows - before

    def wait_for_others(self) -> None:
        """Take the shards of processes that end soon; the others stay busy."""
        deadline = time.monotonic() + _WAIT_FOR_OTHERS_S
        while self._busy and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            again, self._busy = self._busy, []
            self.caption(again)
        for task in self._busy:
            name = task.shard.name
            self._finish(ShardResult(name, "busy", message=f"{name}: another process has it."))

    def _noted(self, tasks: Iterable[ShardTask]) -> Iterator[ShardTask]:
        for task in tasks:
            self._given[task.shard.name] = task
            yield task

    def _take(self, result: ShardResult) -> None:
        task = self._given.pop(result.shard)
        if result.state == "busy":
            self._busy.append(task)
        else:
            self._finish(result)

    def _finish(self, result: ShardResult) -> None:
        self.summary.add(result)
        self._on_result(result)
