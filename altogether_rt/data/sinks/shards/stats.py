"""The statistics of a finished shard: `NAME_stats.json`, its last file, made exclusively.

Their presence says that the shard's Parquet file is whole. The fields are img2dataset's, and those
that say what was read.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from altogether_rt.data.check_counts import CheckCounts
from altogether_rt.data.hygiene.clean import HygieneCounts
from altogether_rt.data.shards.base import Ending
from altogether_rt.data.sinks.shards.rows import ShardRow
from altogether_rt.data.sinks.shards.store import OutputStore

__all__ = ["RowCounts", "ShardState", "ShardStats", "all_stats", "read_stats", "stats_name"]

#: incomplete: samples are missing, the file is damaged, or it is not the file it was. limited: the
#: run was asked for the first samples only.
ShardState = Literal["done", "incomplete", "limited"]

_MAX_EXAMPLES = 3
_MAX_EXAMPLE_CHARS = 300


def stats_name(shard: str) -> str:
    """The file of a shard's statistics."""
    return f"{shard}_stats.json"


@dataclass
class RowCounts:
    """What the rows of a shard are."""

    rows: int = 0
    captioned: int = 0
    errors: Counter[str] = field(default_factory=Counter)  # by class
    examples: dict[str, list[str]] = field(default_factory=dict)  # of sentences, by class
    tokens: int = 0  # of all captions
    empty: int = 0  # captions without a word: the captioner ended at once
    alts: HygieneCounts = field(default_factory=HygieneCounts)  # of whole tables alone
    checks: CheckCounts = field(default_factory=CheckCounts)  # of whole tables alone

    def add(self, row: ShardRow) -> None:
        """Count a row."""
        self.rows += 1
        if row.error_class is None:
            self.captioned += 1
            self.tokens += row.tokens or 0
            self.empty += not row.caption
        else:
            self._add_error(row.error_class, row.error or "")

    def add_table(self, table: Any) -> None:
        """Count the rows of an Arrow table."""
        import pyarrow.compute as compute

        columns = [table.column(name).to_pylist() for name in ("alt", "alt_notes", "alt_language")]
        for alts, notes, languages in zip(*columns, strict=True):
            self.alts.add_row(alts, notes or (), languages or ())
        if table.column("checks").null_count < table.num_rows:
            keys, checks = (table.column(name).to_pylist() for name in ("key", "checks"))
            for key, found in zip(keys, checks, strict=True):
                if found is not None:
                    self.checks.add(key, found)
        errors = table.column("error_class").drop_null()
        self.rows += table.num_rows
        self.captioned += table.num_rows - len(errors)
        self.tokens += compute.sum(table.column("tokens")).as_py() or 0
        self.empty += compute.sum(compute.equal(table.column("caption"), "")).as_py() or 0
        if not len(errors):
            return
        failed = table.filter(compute.is_valid(table.column("error_class")))
        for kind, sentence in zip(
            errors.to_pylist(), failed.column("error").to_pylist(), strict=True
        ):
            self._add_error(kind, sentence or "")

    def _add_error(self, kind: str, sentence: str) -> None:
        self.errors[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < _MAX_EXAMPLES:
            examples.append(sentence[:_MAX_EXAMPLE_CHARS])

    def checks_data(self) -> dict[str, Any]:
        """What the checks found, under `checks`; nothing if no caption was checked."""
        return {"checks": self.checks.to_dict()} if self.checks.num_checked else {}

    def merge(self, other: RowCounts) -> None:
        """Add the counts of other rows."""
        self.rows += other.rows
        self.captioned += other.captioned
        self.tokens += other.tokens
        self.empty += other.empty
        self.errors.update(other.errors)
        self.alts.merge(other.alts)
        self.checks.merge(other.checks)
        for kind, examples in other.examples.items():
            ours = self.examples.setdefault(kind, [])
            ours += examples[: _MAX_EXAMPLES - len(ours)]


@dataclass(frozen=True)
class ShardStats:
    """What is known of a shard that was captioned."""

    shard: str
    run_id: str
    state: ShardState
    counts: RowCounts
    ending: Ending | None  # None: not all samples were asked for
    num_expected: int | None  # rows, where something beside the shard says so
    num_bytes: int | None  # of the input
    etag: str | None
    parquet_sha256: str
    duration: float  # seconds
    start_time: float  # seconds since 1970
    end_time: float

    @property
    def explanation(self) -> str:
        """Why the shard is not done, in a sentence; empty if it is."""
        if self.state == "limited":
            return f"{self.shard}: only the first {self.counts.rows:,} samples were asked for."
        if self.state == "done":
            return ""
        reason = self.ending.message if self.ending is not None else ""
        if not reason:
            reason = f"{self.counts.rows:,} samples were found, {self.num_expected:,} expected"
        return f"{self.shard}: {reason.rstrip('.')}."

    def to_json(self) -> bytes:
        counts = self.counts
        num_failed = counts.errors.total()
        data = {
            "count": counts.rows,
            "successes": counts.captioned,
            "failed": num_failed,
            "failed_to_download": 0,  # img2dataset's two kinds: nothing is downloaded here
            "failed_to_resize": num_failed,
            "duration": round(self.duration, 3),
            "start_time": self.start_time,
            "end_time": self.end_time,
            "status_dict": {"success": counts.captioned, **dict(sorted(counts.errors.items()))},
            "shard": self.shard,
            "run_id": self.run_id,
            "state": self.state,
            "ending": None if self.ending is None else dataclasses.asdict(self.ending),
            "rows_expected": self.num_expected,
            "rows_found": counts.rows,
            "tokens": counts.tokens,
            "captions_empty": counts.empty,
            "examples": counts.examples,
            "alts": counts.alts.to_dict(),
            **counts.checks_data(),
            "input": {"num_bytes": self.num_bytes, "etag": self.etag},
            "parquet_sha256": self.parquet_sha256,
        }
        return json.dumps(data, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> ShardStats | None:
        """The statistics in a file; None if they are not of this kind (img2dataset's own)."""
        try:
            return cls._from_fields(json.loads(data))
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    @classmethod
    def _from_fields(cls, fields: Mapping[str, Any]) -> ShardStats:
        errors = Counter({k: int(v) for k, v in fields["status_dict"].items() if k != "success"})
        counts = RowCounts(
            fields["count"], fields["successes"], errors, fields["examples"], fields["tokens"]
        )
        counts.empty = fields.get("captions_empty", 0)
        if "alts" in fields:
            counts.alts = HygieneCounts.from_dict(fields["alts"])
        if "checks" in fields:
            counts.checks = CheckCounts.from_dict(fields["checks"])
        return cls(
            shard=fields["shard"],
            run_id=fields["run_id"],
            state=fields["state"],
            counts=counts,
            ending=None if fields["ending"] is None else Ending(**fields["ending"]),
            num_expected=fields["rows_expected"],
            num_bytes=fields["input"]["num_bytes"],
            etag=fields["input"]["etag"],
            parquet_sha256=fields["parquet_sha256"],
            duration=fields["duration"],
            start_time=fields["start_time"],
            end_time=fields["end_time"],
        )


def read_stats(store: OutputStore, shard: str) -> ShardStats | None:
    """A shard's statistics; None if it has none."""
    data = store.read(stats_name(shard))
    return None if data is None else ShardStats.from_json(data)


def all_stats(store: OutputStore, shards: Iterable[str]) -> Iterator[tuple[str, ShardStats | None]]:
    """(shard, its statistics) of each shard."""
    by_file = {stats_name(shard): shard for shard in shards}
    for name, data in store.read_many(by_file):
        yield by_file[name], None if data is None else ShardStats.from_json(data)
