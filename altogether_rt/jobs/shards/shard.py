"""The unit of work: one shard to one Parquet file, in any process, again and again until done."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice

from altogether_rt.captions import Answer
from altogether_rt.data.alts import Alts, clean_text
from altogether_rt.data.hygiene.clean import AltHygiene
from altogether_rt.data.shards.base import Ending, ShardSource
from altogether_rt.data.sinks.shards.claims import Claim, take_claim
from altogether_rt.data.sinks.shards.output import (
    ShardOutput,
    claim_name,
    clear_work,
    parquet_name,
    tidy,
)
from altogether_rt.data.sinks.shards.rows import ShardRow, make_row, schema
from altogether_rt.data.sinks.shards.stats import RowCounts, ShardStats, read_stats
from altogether_rt.data.sinks.shards.store import OutputStore
from altogether_rt.data.sources.base import Sample
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.generation.engine import EngineStats
from altogether_rt.jobs.executor import Executor
from altogether_rt.jobs.samples import caption_samples
from altogether_rt.jobs.shards.care import CAREFUL_ROWS, Care, care_after, window_of
from altogether_rt.jobs.shards.failures import LimitReached, ReadError, ShardChanged, reading
from altogether_rt.jobs.shards.plan import ShardJob, ShardResult, ShardTask, finished_result

__all__ = ["caption_shard"]


def caption_shard(
    task: ShardTask,
    job: ShardJob,
    store: OutputStore,
    executor: Executor,
    on_rows: Callable[[RowCounts], None] = lambda made: None,
) -> ShardResult:
    """Caption a shard, or go on with one that another process left, and say what became of it.

    store: the job's `out`. on_rows: told of rows as they are made. Doing it
    again changes nothing. Rows are the same whichever processes make them, and however often one
    dies: at most a part of them is made twice. Raises AltogetherError if captioning cannot go on
    at all, OSError if the output cannot be written; rows so far are kept then, as by Ctrl-C.
    """
    schema()  # loads pyarrow now: a sample alone must not answer for the seconds that takes
    shard = task.shard
    stats = _finished_before(store, shard.name)
    if stats is not None and job.is_finished(task, stats):
        clear_work(store, shard.name)
        return finished_result(task, stats)
    taken = take_claim(store, claim_name(shard.name), task.died)
    if taken is None:
        return ShardResult(shard.name, "busy", message=f"{shard.name}: another process has it.")
    claim, former = taken
    with claim:
        tidy(store, shard.name, died=former is not None)
        output = ShardOutput(
            store,
            shard,
            job.run,
            job.run_id,
            part_rows=job.part_rows,
            part_seconds=job.part_seconds,
        )
        stats = _finished_before(store, shard.name)  # perhaps in between
        if stats is None and not job.overwrite:
            stats = output.recover_finished()
        if stats is not None and job.is_finished(task, stats):
            output.restart()
            return finished_result(task, stats)
        same_run = stats is not None and stats.run_id == job.run_id
        output.recover(stats if same_run else None)
        care = care_after(former, output.num_durable)
        claim.update(
            rows=output.num_durable,
            care=care.level,
            deaths=care.deaths,
            alone_deaths=care.alone_deaths,
        )
        if care.given_up:
            return _give_up(shard.name, care, output)
        return _Work(task, job, output, executor, claim, care, on_rows).do()


def _finished_before(store: OutputStore, shard: str) -> ShardStats | None:
    """A shard's statistics; None if its captions are gone, whatever the statistics say."""
    stats = read_stats(store, shard)
    return stats if stats is not None and store.exists(parquet_name(shard)) else None


def _give_up(shard: str, care: Care, output: ShardOutput) -> ShardResult:
    message = (
        f"{shard}: {care.deaths} processes died while they were reading it, one after another: "
        "look at this file, then give the same command again."
    )
    output.record_error(message)
    return ShardResult(shard, "failed", message=message)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A sample that was drawn."""

    number: int  # of the sample in its shard
    index: int  # of its row in the output
    copied: bool  # its row is copied from an earlier file


class _Work:
    """One attempt at a shard."""

    def __init__(
        self,
        task: ShardTask,
        job: ShardJob,
        output: ShardOutput,
        executor: Executor,
        claim: Claim,
        care: Care,
        on_rows: Callable[[RowCounts], None],
    ) -> None:
        self._task = task
        self._job = job
        self._output = output
        self._executor = executor
        self._claim = claim
        self._care = care
        self._on_rows = on_rows
        self._num_seen = 0  # samples that are asked for, those with durable rows among them
        self._num_new = 0
        self._num_expected: int | None = None
        self._drawn: deque[_Drawn] = deque()  # samples without a row
        self._copies: Iterator[ShardRow] = iter(())
        self._is_limited = False
        self._engine: EngineStats | None = None
        # A shard is the same file or another one; its rows have no use for hashes of images.
        self._plan = dataclasses.replace(job.plan, hash_files=False)
        self._hygiene = AltHygiene(job.hygiene, counts_noise=False)

    def do(self) -> ShardResult:
        try:
            ending = self._caption_all()
        except ReadError as wrapped:
            cause = wrapped.__cause__
            known = isinstance(cause, AltogetherError | OSError)
            message = f"{self._task.shard.name}: {cause if known else repr(cause)}"
            self._output.record_error(message)
            return ShardResult(
                self._task.shard.name, "failed", num_new=self._num_new, message=message
            )
        stats = self._output.finish(ending, self._num_expected)
        result = finished_result(self._task, stats, self._num_new)
        return dataclasses.replace(result, engine=self._engine)

    def _caption_all(self) -> Ending | None:
        try:
            return self._caption()
        except ShardChanged:
            self._output.restart()
            self._num_seen = self._num_new = 0
            self._drawn.clear()
            return self._caption()
        except BaseException:
            with suppress(OSError):  # of the two, the first is the one to be known
                self._output.flush()
            raise

    def _caption(self) -> Ending | None:
        """Caption what has no row yet; returns how the shard ended, None behind the limit."""
        with ExitStack() as stack:
            with reading():
                source = stack.enter_context(self._job.open_shard(self._task.shard))
            # Opening a shard may have told how many samples it should have.
            self._num_expected = None if self._job.share else source.shard.num_expected
            former = stack.enter_context(self._output.former_rows())
            self._copies = stack.enter_context(self._output.former_rows())
            samples = self._samples(source, self._choice(former))
            self._caption_carefully(samples)
            self._run(samples)
            self._release_copies()
            with reading():
                return None if self._is_limited else source.ending

    def _caption_carefully(self, samples: Iterator[Sample]) -> None:
        """Caption the samples that may have killed the process before, a few at a time."""
        window = window_of(self._care.level)
        if window is None:
            return
        until = self._output.num_durable + CAREFUL_ROWS
        while self._output.num_durable < until:
            some = list(islice(samples, window))
            if window == 1 and some:
                self._claim.update(alone=self._drawn[-1].index, answered=False)
            self._run(iter(some))
            if window == 1 and some:
                self._claim.update(alone=None, answered=True)
            self._output.flush()
            if len(some) < window:
                break
        self._claim.update(
            care=0,
            alone=None,
            answered=False,
            rows=self._output.num_durable,
            deaths=0,
            alone_deaths=0,
        )

    def _choice(self, former: Iterator[ShardRow]) -> Callable[[int, str], bool]:
        """A function that says which samples are captioned; it is asked for each, in order.

        former: rows of the finished file that is made again, which are copied where they can be.
        """
        num_durable, keys = self._output.num_durable, self._output.durable_keys()
        limit, share = self._task.limit, self._job.share
        if limit is not None:
            limit = max(limit, num_durable)

        def wanted(number: int, key: str) -> bool:
            if share is not None and key not in share:
                return False
            index = self._num_seen
            if limit is not None and index >= limit:
                raise LimitReached
            self._num_seen += 1
            row = next(former, None)
            if index < num_durable:
                if next(keys, None) != clean_text(key):
                    raise ShardChanged
                return False
            copied = row is not None and row.key == clean_text(key) and self._stays(row)
            self._drawn.append(_Drawn(number, index, copied))
            return not copied

        return wanted

    def _stays(self, row: ShardRow) -> bool:
        if self._job.overwrite:
            return False
        return row.error_class is None or not self._job.retry_errors

    def _samples(self, source: ShardSource, wanted: Callable[[int, str], bool]) -> Iterator[Sample]:
        try:
            with reading():
                for sample in source.samples_where(wanted):
                    yield self._without_image(sample) if self._has_crashed() else sample
        except LimitReached:
            self._is_limited = True
        if self._num_seen < self._output.num_durable:
            raise ShardChanged

    def _has_crashed(self) -> bool:
        return self._drawn[-1].index == self._care.crashed

    def _without_image(self, sample: Sample) -> Sample:
        message = (
            f"{sample.key} cannot be captioned: processes that were given it alone died, perhaps "
            "for want of memory."
        )
        return dataclasses.replace(sample, image=ImageError("crashed", message))

    def _run(self, samples: Iterator[Sample]) -> None:
        stats = caption_samples(
            self._hygiene.samples(samples), self._executor, self._plan, self._write
        )
        if stats.num_steps or self._engine is None:
            self._engine = dataclasses.replace(stats)

    def _write(self, key: str, alts: Alts, answer: Answer) -> None:
        """Write the row of the oldest sample that was drawn."""
        self._release_copies()
        row = make_row(self._drawn.popleft().number, key, alts, answer, self._job.checker)
        self._output.write(row)
        self._num_new += 1
        made = RowCounts()
        made.add(row)
        self._on_rows(made)
        self._release_copies()

    def _release_copies(self) -> None:
        """Write the rows that are copied, up to the next one that is not."""
        while self._drawn and self._drawn[0].copied:
            self._output.write(self._copy(self._drawn.popleft().number))

    def _copy(self, number: int) -> ShardRow:
        for row in self._copies:
            if row.row == number:
                return row
        raise AssertionError("a copied row has been read before")
