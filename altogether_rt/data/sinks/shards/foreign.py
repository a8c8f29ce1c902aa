"""What captions must not replace: the shards themselves, and files of somebody else."""

from __future__ import annotations

from collections.abc import Sequence

from altogether_rt.data.problems import Problems
from altogether_rt.data.shards.base import Shard
from altogether_rt.data.shards.storage import is_same_file
from altogether_rt.data.sinks.shards.output import parquet_name
from altogether_rt.data.sinks.shards.run_file import RUN_FILE
from altogether_rt.data.sinks.shards.stats import all_stats, stats_name
from altogether_rt.data.sinks.shards.store import OutputStore
from altogether_rt.errors import AltogetherError

__all__ = ["check_outputs"]


def check_outputs(store: OutputStore, shards: Sequence[Shard], run_id: str) -> None:
    """Raise AltogetherError if captions of `shards` would replace what no run of captions wrote.

    A Parquet shard, or the metadata that a downloader puts beside its tars, has the very name that
    the captions would get in that folder. run_id: of the run that is about to begin; captions of
    the same run are its own, also where its file was lost, by tools that copy no `_*`.
    """
    for shard in shards:
        target = f"{store.url.rstrip('/')}/{parquet_name(shard.name)}"
        if is_same_file(target, shard.url):
            raise AltogetherError(
                f"the captions of {shard.url} would replace it: name another folder for them."
            )
    if store.read(RUN_FILE) is not None:
        return
    there = set(store.all_files())
    with_stats = [shard.name for shard in shards if stats_name(shard.name) in there]
    own = {
        name
        for name, stats in all_stats(store, with_stats)
        if stats is not None and stats.run_id == run_id
    }
    found = Problems()
    for shard in shards:
        for name in (parquet_name(shard.name), stats_name(shard.name)):
            if name in there and shard.name not in own:
                found.add(name)
    # Read once more: another process may have begun the same run in the meantime.
    if found and store.read(RUN_FILE) is None:
        raise AltogetherError(
            f"{store.url} holds files that are no captions of this run, and captions would replace "
            f"them ({found}): name another folder."
        )
