"""The files of captions that a run over shards has completed, for those who read them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from altogether_rt.data.sinks.shards.output import ROWS_SUFFIX, parquet_name
from altogether_rt.data.sinks.shards.run_file import read_run, read_shards, run_id_of
from altogether_rt.data.sinks.shards.stats import all_stats, stats_name
from altogether_rt.data.sinks.shards.store import OutputStore

__all__ = ["RunTables", "run_tables"]

#: A path with a hidden file or folder in it, such as the parts of a shard that is being written.
_HIDDEN: Final = re.compile(r"(^|/)[._]")


@dataclass(frozen=True)
class RunTables:
    """Parquet files of captions, one for each shard."""

    names: tuple[str, ...] = ()  # `train/00003.parquet`, sorted
    num_unfinished: int = 0  # shards without one, or with the first samples alone
    digests: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of each, if it is known


def run_tables(store: OutputStore) -> RunTables:
    """The files of a run that are complete.

    A shard is complete once `NAME_stats.json` is beside `NAME.parquet`, if that is of this run: one
    that is to replace an earlier run leaves the other's files until it has come to them. Where no
    shard has statistics, something else wrote the files, and all of them count.
    """
    there = set(store.all_files())
    known = {name for name in there if not _HIDDEN.search(name)}
    tables = sorted(name for name in known if name.endswith(ROWS_SUFFIX))
    shards = {*read_shards(store, there), *map(_stem, tables)}  # all that are known of
    marked = [name for name in tables if stats_name(_stem(name)) in known]
    run = read_run(store)
    if run is None:
        names = tuple(marked or tables)
        return RunTables(names, len(shards) - len(names))
    run_id, digests, num_limited = run_id_of(run), {}, 0
    for shard, stats in all_stats(store, map(_stem, marked)):
        if stats is not None and stats.run_id == run_id:
            digests[parquet_name(shard)] = stats.parquet_sha256
            num_limited += stats.state == "limited"
    num_without = len(shards) - len(digests)
    return RunTables(tuple(sorted(digests)), num_without + num_limited, digests)


def _stem(name: str) -> str:
    return name.removesuffix(ROWS_SUFFIX)
