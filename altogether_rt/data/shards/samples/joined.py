"""Metadata from files of their own, joined to samples by key, url, sha256, uid, …"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from altogether_rt.data.alt_files.columns import Columns
from altogether_rt.data.alt_files.lines import FileNotes
from altogether_rt.data.alt_files.records import read_records
from altogether_rt.data.problems import Problems
from altogether_rt.data.shards.base import Shard
from altogether_rt.data.shards.options import Join
from altogether_rt.data.shards.spool import Spool
from altogether_rt.data.shards.storage import etag_of, local_path, storage_errors
from altogether_rt.data.shards.stores.fetching import remote_info
from altogether_rt.errors import AltogetherError

__all__ = ["JoinTable", "join_table"]

#: Records of one file, all of which are in memory: some 2 GB.
_MAX_RECORDS: Final = 2_000_000
_SHARD: Final = "{shard}"


class JoinTable:
    """Records by what they are joined on. Of several for one sample, the first counts."""

    def __init__(self, on: str, records: Mapping[str, Mapping[str, Any]]) -> None:
        self._on = on
        self._records = records

    def find(self, key: str, fields: Mapping[str, str]) -> Mapping[str, Any]:
        """The record of a sample; empty if there is none. `fields`: the sample's own metadata."""
        value = key if self._on == "key" else fields.get(self._on)
        return {} if value is None else self._records.get(value, {})


def join_table(join: Join, shard: Shard, spool: Spool) -> JoinTable:
    """The metadata of one shard's samples.

    Raises AltogetherError if the file cannot be read, has no record with what it is joined on, or
    has too many records for one shard.
    """
    url = join.file.replace(_SHARD, shard.name)
    if _SHARD in join.file:
        return JoinTable(join.on, _read(url, join.on, spool))
    key = (url, join.on, _stamp(url))
    records = _kept.get(key)
    if records is None:
        records = _read(url, join.on, spool)
        _kept.clear()
        _kept[key] = records
    return JoinTable(join.on, records)


#: Records of a file for all shards, which is read once by each process; the last one alone.
_kept: dict[tuple[str, str, str], dict[str, Mapping[str, Any]]] = {}


def _stamp(url: str) -> str:
    """What changes with the content of a file."""
    path = local_path(url)
    try:
        if path is not None:
            status = os.stat(path)
            return f"{status.st_size}-{status.st_mtime_ns}"
        with storage_errors(url):
            info = remote_info(url)
            return f"{info.get('size')}-{etag_of(info)}"
    except OSError as error:
        raise AltogetherError(f"{url} cannot be read: {error.strerror}.") from error


def _read(url: str, on: str, spool: Spool) -> dict[str, Mapping[str, Any]]:
    with spool.local(Shard("join", url)) as path:
        return dict(_records(path, url, on))


def _records(path: Path, url: str, on: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    problems = Problems()
    seen: set[str] = set()
    try:
        records = read_records(path, problems, FileNotes(), Columns(name=on))
        for _, record in records:
            # `{key: texts}` comes as records of a file name and its alt-texts.
            value = record.get(on, record.get("file_name") if on == "key" else None)
            if value is None or (name := _name(value)) in seen:
                continue
            if len(seen) == _MAX_RECORDS:
                raise AltogetherError(
                    f"{url} has more than {_MAX_RECORDS:,} records: divide it by shard, and write "
                    "{shard} for the shard's name in --join."
                )
            seen.add(name)
            yield name, record
    except OSError as error:
        raise AltogetherError(f"{url} cannot be read: {error.strerror or error}.") from error
    if not seen:
        why = f" ({problems})" if problems else ""
        raise AltogetherError(
            f"{url} has no record with {on}{why}: name what to join on with --join-on."
        )


def _name(value: Any) -> str:
    """Keys are texts; some writers keep them as numbers."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
