"""Tells captions that a run has written from shards, where both are in one folder."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from altogether_rt.data.sinks.shards.output import ROWS_SUFFIX, WORK_FOLDER
from altogether_rt.data.sinks.shards.run_file import RUN_FILE
from altogether_rt.data.sinks.shards.stats import stats_name

__all__ = ["captions_among"]


def captions_among(files: set[str]) -> Iterator[str]:
    """Those of all files of a folder, by their paths or URLs, that a run has written captions to.

    The output of a run over Parquet files may be below its input: it must not be its own input when
    the same command is given again.
    """
    runs = {file.removesuffix(RUN_FILE) for file in files if file.endswith(f"/{RUN_FILE}")}
    if not runs:
        return
    begun = set()
    for file in files:
        run, found, work = file.partition(f"/{WORK_FOLDER}/")
        if found and f"{run}/" in runs:
            begun.add(f"{run}/{work.rpartition('/')[0]}")
    for file in files:
        shard = file.removesuffix(ROWS_SUFFIX)
        if shard != file and (shard in begun or stats_name(shard) in files):
            parts = itertools.accumulate(shard.split("/")[:-1], lambda path, part: f"{path}/{part}")
            if any(f"{folder}/" in runs for folder in parts):
                yield file
