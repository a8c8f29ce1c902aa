"""The captions of a run: shards in Parquet files, or one file of rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from altogether_rt.data.alts import clean_text
from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError
from altogether_rt.mixing.captions import CaptionRecord, iter_captions, table_names
from altogether_rt.publishing.counts import ExportCounts
from altogether_rt.publishing.storage import Storage, open_storage

__all__ = ["CaptionRun", "open_run"]

_FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz", ".zst")


@dataclass(frozen=True)
class CaptionRun:
    """Files of captions, each of one shard."""

    storage: Storage
    names: tuple[str, ...]  # of the files, sorted
    num_unfinished: int = 0  # shards that the run has not completed
    is_file: bool = False  # one file, whose keys are file names

    def shards(self) -> Iterator[tuple[str, str]]:
        """(shard, its file) of each: `train/00003`, `train/00003.parquet`."""
        for name in self.names:
            folder, slash, last = name.rpartition("/")
            yield folder + slash + last.partition(".")[0] if self.is_file else _stem(name), name

    def records(
        self, name: str, counts: ExportCounts, problems: Problems
    ) -> Iterator[CaptionRecord]:
        """The records of a file, their captions cleaned to one line, None if they are empty.

        Raises AltogetherError if the file cannot be read.
        """
        before = problems.count
        with self.storage.local(name) as path:
            for record in iter_captions(path, problems):
                caption = clean_text(record.caption or "") or None
                counts.rows += 1
                counts.failed += record.failed
                counts.missing += caption is None and not record.failed
                yield replace(record, caption=caption)
        counts.unreadable += problems.count - before


def open_run(where: str) -> CaptionRun:
    """The captions in a folder or a file, by its path or URL.

    Raises AltogetherError if there are none.
    """
    if where.endswith(_FILE_SUFFIXES):
        folder, slash, name = where.rpartition("/")
        storage = open_storage(folder or slash or ".")
        if storage.stamp(name) is None:
            raise AltogetherError(f"there is no file of captions {where}.")
        return CaptionRun(storage, (name,), is_file=True)
    storage = open_storage(where)
    names = storage.names()
    tables = table_names(names)
    if not tables:
        raise AltogetherError(
            f"there are no captions in {where}: name the output of a sharded run, with a .parquet "
            "file for each shard, or a file such as captions.jsonl."
        )
    known = _listed(storage) | set(map(_stem, tables))
    return CaptionRun(storage, tuple(tables), len(known) - len(tables))


def _listed(storage: Storage) -> set[str]:
    """The shards that the run is for, where it says so."""
    try:
        listed = json.loads(storage.read("_shards.json") or b"{}")
    except ValueError:
        return set()
    return set(listed) if isinstance(listed, dict) else set()


def _stem(name: str) -> str:
    return name.removesuffix(".parquet")
