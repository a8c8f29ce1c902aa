"""The output of one shard while it is captioned: parts, then the Parquet file, then statistics.

    _work/NAME/claim.json                     who captions it
    _work/NAME/0000000000-0000000512.arrow    durable rows
    NAME.parquet                              all rows
    NAME_stats.json                           says that the file above is whole

Each step can be the last one before the process dies, and the next process goes on from there.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from altogether_rt.data.shards.base import Ending, Shard
from altogether_rt.data.sinks.shards.claims import take_claim
from altogether_rt.data.sinks.shards.parts import (
    Parts,
    hash_of,
    read_metadata,
    stored_rows,
    stored_tables,
    write_parquet,
)
from altogether_rt.data.sinks.shards.rows import ShardRow
from altogether_rt.data.sinks.shards.stats import (
    RowCounts,
    ShardState,
    ShardStats,
    read_stats,
    stats_name,
)
from altogether_rt.data.sinks.shards.store import OutputStore

__all__ = [
    "ROWS_SUFFIX",
    "WORK_FOLDER",
    "ShardOutput",
    "claim_name",
    "clear_work",
    "error_name",
    "parquet_name",
    "tidy",
]

#: Holds what is only there while shards are captioned.
WORK_FOLDER = "_work"
#: Of the file of a shard's rows, behind the shard's name.
ROWS_SUFFIX = ".parquet"


def parquet_name(shard: str) -> str:
    """The file of a shard's rows."""
    return f"{shard}{ROWS_SUFFIX}"


def claim_name(shard: str) -> str:
    """The file that says which process captions a shard."""
    return f"{WORK_FOLDER}/{shard}/claim.json"


def error_name(shard: str) -> str:
    """The file that says why a shard could not be captioned."""
    return f"{shard}_error.json"


def tidy(store: OutputStore, shard: str, *, died: bool) -> None:
    """Remove half-written files of a shard's former processes; the caller has claimed it.

    died: it is known that one died, so that the whole folder is worth looking through.
    """
    store.tidy(f"{WORK_FOLDER}/{shard}/")
    if died:
        store.tidy(f"{shard}.parquet")
        store.tidy(f"{shard}_")


def clear_work(store: OutputStore, shard: str) -> None:
    """Remove what is left of the work on a finished shard, unless a process is at it."""
    if not store.files(f"{WORK_FOLDER}/{shard}"):
        return
    taken = take_claim(store, claim_name(shard))
    if taken is not None:
        with taken[0]:
            tidy(store, shard, died=True)
            names = store.files(f"{WORK_FOLDER}/{shard}")
            store.remove(name for name in names if name != claim_name(shard))


class ShardOutput:
    """What is written for one shard, by the process that has claimed it."""

    def __init__(
        self,
        store: OutputStore,
        shard: Shard,
        run: Mapping[str, Any],
        run_id: str,
        *,
        part_rows: int,
        part_seconds: float,
    ) -> None:
        """part_rows, part_seconds: rows become durable after so many, or so much time."""
        self._store = store
        self._shard = shard
        self._run = run
        self._run_id = run_id
        self._part_rows = part_rows
        self._part_seconds = part_seconds
        self._former: ShardStats | None = None
        self._parts = self._parts_of(None)
        self._held: list[ShardRow] = []  # rows that are not durable yet
        self._began = time.time()

    @property
    def num_durable(self) -> int:
        """Rows that survive the death of the process: the first so many."""
        return self._parts.num_rows

    def recover(self, former: ShardStats | None) -> None:
        """Find durable rows of earlier processes.

        former: of the finished file that is to be made again; rows for it are kept apart.
        """
        self._former = former
        self._parts = self._parts_of(former)
        self._parts.recover()

    def recover_finished(self) -> ShardStats | None:
        """The statistics of a whole Parquet file without any, which are written now.

        Its process died, or lost its store, between the two. None if there is no such file.
        """
        try:
            with self._store.open(parquet_name(self._shard.name)) as file:
                found = read_metadata(file)
                if found is None or not self._is_ours(*found):
                    return None
                about, counts = found[0], RowCounts()
                for table in stored_tables(file):
                    counts.add_table(table)
                digest = hash_of(file)
        except FileNotFoundError:
            return None
        stats = self._stats(about, counts, digest)
        return self._publish(stats)

    def durable_keys(self) -> Iterator[str]:
        """Keys of the durable rows, in order."""
        for table in self._parts.tables():
            yield from table.column("key").to_pylist()

    @contextmanager
    def former_rows(self) -> Iterator[Iterator[ShardRow]]:
        """The rows of the finished file that is made again; none if there is no such file."""
        if self._former is None:
            yield iter(())
            return
        with self._store.open(parquet_name(self._shard.name)) as file:
            yield stored_rows(file)

    def write(self, row: ShardRow) -> None:
        """Add the next row. It becomes durable with those before it, or by `flush`."""
        self._held.append(row)
        late = time.time() - self._began > self._part_seconds
        if late or len(self._held) >= self._part_rows:
            self.flush()

    def flush(self) -> None:
        """Make all rows durable."""
        if self._held:
            self._parts.append(self._held, self._began)
            self._held = []
        self._began = time.time()

    def restart(self) -> None:
        """Forget all rows."""
        self._held = []
        self._parts.remove()

    def finish(self, ending: Ending | None, num_expected: int | None) -> ShardStats:
        """Turn the rows into the Parquet file, write its statistics and remove the parts.

        ending: how the shard ended; None if only its first samples were asked for. num_expected:
        samples that it should have, where that is known.
        """
        self.flush()
        duration, began = self._parts.seconds, self._parts.began or self._began
        about = self._about(ending, num_expected)
        counts = RowCounts()
        name = parquet_name(self._shard.name)
        with self._store.new_file(name) as file:
            digest = write_parquet(file, self._counted(counts), about)
            # From here to `create` the shard counts as unfinished, with a file that is whole.
            self._store.remove([stats_name(self._shard.name)])
        stats = dataclasses.replace(
            self._stats(about, counts, digest), duration=duration, start_time=began
        )
        stats = self._publish(stats)
        self._parts.remove()
        return stats

    def record_error(self, message: str) -> None:
        """Say for `status` why the shard could not be captioned."""
        data = {"shard": self._shard.name, "error": message, "time": time.time()}
        text = json.dumps(data, ensure_ascii=False).encode("utf-8", "replace")
        self._store.write(error_name(self._shard.name), text)

    def _counted(self, counts: RowCounts) -> Iterator[Any]:
        for table in self._parts.tables():
            counts.add_table(table)
            yield table

    def _publish(self, stats: ShardStats) -> ShardStats:
        self._store.remove([error_name(self._shard.name)])
        if self._store.create(stats_name(self._shard.name), stats.to_json()):
            return stats
        there = read_stats(self._store, self._shard.name)
        if there is None:  # a damaged file, which would never count as statistics
            self._store.write(stats_name(self._shard.name), stats.to_json())
        return there or stats  # another process was first

    def _about(self, ending: Ending | None, num_expected: int | None) -> dict[str, Any]:
        return {
            **self._run,
            "run_id": self._run_id,
            "shard": self._shard.name,
            "input": {"num_bytes": self._shard.num_bytes, "etag": self._shard.etag},
            "ending": None if ending is None else dataclasses.asdict(ending),
            "rows_expected": num_expected,
            "rows": self.num_durable,
        }

    def _stats(self, about: Mapping[str, Any], counts: RowCounts, digest: str) -> ShardStats:
        ending = None if about["ending"] is None else Ending(**about["ending"])
        expected = about["rows_expected"]
        now = time.time()
        return ShardStats(
            shard=self._shard.name,
            run_id=self._run_id,
            state=_state(ending, counts.rows, expected),
            counts=counts,
            ending=ending,
            num_expected=expected,
            num_bytes=about["input"]["num_bytes"],
            etag=about["input"]["etag"],
            parquet_sha256=digest,
            duration=0.0,
            start_time=now,
            end_time=now,
        )

    def _is_ours(self, about: Mapping[str, Any], num_rows: int) -> bool:
        ours = self._about(None, None)
        same = all(about.get(key) == ours[key] for key in ("run_id", "shard", "input"))
        return same and about.keys() == ours.keys() and about["rows"] == num_rows

    def _parts_of(self, former: ShardStats | None) -> Parts:
        circumstances = {
            "run_id": self._run_id,
            "input": [self._shard.num_bytes, self._shard.etag],
            "former": None if former is None else former.parquet_sha256,
        }
        return Parts(self._store, f"{WORK_FOLDER}/{self._shard.name}", circumstances)


def _state(ending: Ending | None, num_rows: int, num_expected: int | None) -> ShardState:
    if ending is None:
        return "limited"
    if not ending.is_complete or (num_expected is not None and num_rows < num_expected):
        return "incomplete"
    return "done"
