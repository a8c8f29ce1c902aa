"""What a run over shards is, and what becomes of each shard."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from altogether_rt.data.hygiene.clean import HygieneOptions
from altogether_rt.data.rows import RunStamp
from altogether_rt.data.shards.base import Shard, ShardSource
from altogether_rt.data.sinks.shards.claims import ProcessId
from altogether_rt.data.sinks.shards.run_file import run_id_of
from altogether_rt.data.sinks.shards.stats import RowCounts, ShardStats
from altogether_rt.data.sources.sampling import KeyShare
from altogether_rt.errors import AltogetherError
from altogether_rt.generation.engine import EngineStats
from altogether_rt.jobs.plan import CaptionPlan
from altogether_rt.wording.checks import CaptionChecker

__all__ = ["OpenShard", "ShardJob", "ShardResult", "ShardTask", "finished_result"]

#: Opens a shard for reading while a block runs. It is sent to other processes: a module's function,
#: or a partial of one, or an object that can be pickled.
OpenShard = Callable[[Shard], AbstractContextManager[ShardSource]]


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """Where captions go and how they are made. It is sent to other processes."""

    out: str  # a folder, or the URL of one
    open_shard: OpenShard
    bundle_id: str
    plan: CaptionPlan
    reading: Mapping[str, Any] = field(default_factory=dict)  # options that decide what is read
    hygiene: HygieneOptions = field(default_factory=HygieneOptions)
    share: KeyShare | None = None  # of the samples; None: all
    checker: CaptionChecker | None = None  # of captions; None: they are not checked
    overwrite: bool = False
    retry_errors: bool = False
    part_rows: int = 512
    part_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.hygiene.drop_boilerplate:
            raise AltogetherError(
                "boilerplate is found in all alt-texts of a dataset, which are not known while a "
                "shard is captioned: leave --drop-boilerplate out."
            )

    @cached_property
    def run(self) -> dict[str, Any]:
        """What all captions of the folder must have in common, as JSON data."""
        stamp = RunStamp(self.bundle_id, self.plan.params, self.plan.fast_jpeg, self.hygiene.names)
        run = {**stamp.fields(), "max_pixels": self.plan.limits.max_pixels}
        if self.reading:
            run["reading"] = self.reading
        if self.checker is not None:
            run["checks"] = True
        if self.share is not None:
            run["sample"] = dataclasses.asdict(self.share)
        return run

    @cached_property
    def run_id(self) -> str:
        """12 hex digits of `run`."""
        return run_id_of(self.run)

    def is_finished(self, task: ShardTask, stats: ShardStats) -> bool:
        """Whether nothing is to be done about a shard with these statistics."""
        if self.overwrite or stats.run_id != self.run_id:
            return False
        if self.retry_errors and stats.counts.errors:
            return False
        if stats.state == "limited":
            return task.limit is not None and task.limit <= stats.counts.rows
        # One that is incomplete may have been mended meanwhile.
        return stats.state == "done" or task.is_of(stats)


@dataclass(frozen=True)
class ShardTask:
    """A shard to caption, or its first samples."""

    shard: Shard
    limit: int | None = None  # samples
    died: tuple[ProcessId, ...] = ()  # processes that had it and are known to be dead

    def is_of(self, stats: ShardStats) -> bool:
        """Whether the shard is still the file that these statistics are of."""
        return (stats.num_bytes, stats.etag) == (self.shard.num_bytes, self.shard.etag)

    def replaces(self, stats: ShardStats) -> bool:
        """Whether it is certainly another file. One that was copied may have another time."""
        sizes = (stats.num_bytes, self.shard.num_bytes)
        return None not in sizes and stats.num_bytes != self.shard.num_bytes


@dataclass(frozen=True)
class ShardResult:
    """What became of a shard.

    done, incomplete, limited: its file is there. failed: it could not be read, or not captioned.
    busy: another process has it.
    """

    shard: str
    state: Literal["done", "incomplete", "limited", "failed", "busy"]
    counts: RowCounts = field(default_factory=RowCounts)  # of all its rows
    num_new: int = 0  # rows made by this call
    message: str = ""  # why it is not done, a sentence
    changed: bool = False  # the input is not the one whose captions are there, or newer
    replaced: bool = False  # it is not, for its size is another one: its samples have no rows
    engine: EngineStats | None = None  # of the captioner so far


def finished_result(task: ShardTask, stats: ShardStats, num_new: int = 0) -> ShardResult:
    """What became of a shard whose file is there."""
    return ShardResult(
        shard=task.shard.name,
        state=stats.state,
        counts=stats.counts,
        num_new=num_new,
        message=stats.explanation,
        changed=not task.is_of(stats),
        replaced=task.replaces(stats),
    )
