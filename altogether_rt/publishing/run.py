"""The captions of a run: shards in Parquet files, or one file of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from altogether_rt.data.alts import clean_text
from altogether_rt.data.problems import Problems
from altogether_rt.data.shards.options import parse_image_keys
from altogether_rt.data.shards.spool import Spool
from altogether_rt.data.sinks.shards.open_store import open_store
from altogether_rt.data.sinks.shards.output import ROWS_SUFFIX
from altogether_rt.data.sinks.shards.parts import hash_of
from altogether_rt.data.sinks.shards.run_file import read_run
from altogether_rt.data.sinks.shards.store import OutputStore
from altogether_rt.data.sinks.shards.tables import run_tables
from altogether_rt.errors import AltogetherError
from altogether_rt.mixing.captions import CaptionRecord, iter_captions
from altogether_rt.publishing.counts import ExportCounts
from altogether_rt.publishing.storage import divided, joined, on_this_machine, stamp_of

__all__ = ["CaptionRun", "open_run"]

#: Fields of `RunStamp`.
_RUN_FIELDS = ("bundle", "params", "fast_jpeg", "hygiene")

_FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz", ".zst")


@dataclass(frozen=True)
class CaptionRun:
    """Files of captions, each of one shard."""

    store: OutputStore
    names: tuple[str, ...]  # of the files, sorted
    num_unfinished: int = 0  # shards that the run has not completed
    is_file: bool = False  # one file, whose keys are file names
    digests: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of files, by their names

    def shards(self) -> Iterator[tuple[str, str]]:
        """(shard, its file) of each: `train/00003`, `train/00003.parquet`."""
        for name in self.names:
            folder, slash, last = name.rpartition("/")
            yield folder + slash + last.partition(".")[0] if self.is_file else _stem(name), name

    def stamp(self, name: str) -> str | None:
        """What changes when a file's content changes."""
        return stamp_of(joined(self.store, name))

    def made_with(self) -> dict[str, Any]:
        """What the run says of all its captions, as a row of `caption` says it: bundle, …"""
        known = {} if self.is_file else read_run(self.store) or {}
        return {name: known[name] for name in _RUN_FIELDS if name in known}

    @property
    def image_keys(self) -> tuple[str, ...]:
        """The `--image-key` of the run."""
        reading = ({} if self.is_file else read_run(self.store) or {}).get("reading")
        keys = reading.get("image_keys") if isinstance(reading, dict) else None
        return parse_image_keys(keys if isinstance(keys, str) else None)

    def records(
        self, name: str, spool: Spool, counts: ExportCounts, problems: Problems
    ) -> Iterator[CaptionRecord]:
        """The records of a file, their captions cleaned to one line, None if they are empty.

        Raises AltogetherError if the file cannot be read.
        """
        before = problems.count
        with on_this_machine(joined(self.store, name), spool) as path:
            self._check(name, path)
            for record in iter_captions(path, problems):
                caption = clean_text(record.caption or "") or None
                counts.rows += 1
                counts.failed += record.failed
                counts.missing += caption is None and not record.failed
                yield replace(record, caption=caption)
        counts.unreadable += problems.count - before

    def _check(self, name: str, path: Path) -> None:
        """Raise AltogetherError if a shard's captions are not those that were written."""
        digest = self.digests.get(name)
        if digest is None:
            return
        with path.open("rb") as file:
            if hash_of(file) != digest:
                raise AltogetherError(
                    f"{joined(self.store, name)} is not the file that was written: unless a run is "
                    "at work on it, it is damaged; remove it, and the command that captioned makes "
                    "it again."
                )


def open_run(where: str) -> CaptionRun:
    """The captions in a folder or a file, by its path or URL.

    Raises AltogetherError if there are none.
    """
    if where.endswith(_FILE_SUFFIXES):
        store, name = divided(where)
        if stamp_of(where) is None:
            raise AltogetherError(f"there is no file of captions {where}.")
        return CaptionRun(store, (name,), is_file=True)
    store = open_store(where)
    tables = run_tables(store)
    if not tables.names:
        raise AltogetherError(
            f"there are no captions in {where}: name the output of a sharded run, with a .parquet "
            "file for each shard, or a file such as captions.jsonl."
        )
    return CaptionRun(store, tables.names, tables.num_unfinished, digests=tables.digests)


def _stem(name: str) -> str:
    return name.removesuffix(ROWS_SUFFIX)
