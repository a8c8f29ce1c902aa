"""Shards and the captions of a run over them, made for tests."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

__all__ = ["image_bytes", "members_of", "write_run", "write_tar"]


def image_bytes(number: int) -> bytes:
    """A PNG of one colour, whose red is the number."""
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(data, "PNG")
    return data.getvalue()


def write_tar(
    path: Path, members: Iterable[tuple[str, bytes]], layout: int = tarfile.GNU_FORMAT
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=layout) as archive:
        for number, (name, data) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), 1_700_000_000 + number, 0o640
            info.uid, info.uname = 1000, "someone"
            archive.addfile(info, io.BytesIO(data))
    return path


def members_of(path: Path) -> dict[str, bytes]:
    """The data of each member, in order."""
    with tarfile.open(path) as archive:
        found = {}
        for info in archive:
            file = archive.extractfile(info)
            assert file is not None and info.name not in found
            found[info.name] = file.read()
        return found


def write_run(
    folder: Path,
    shards: Mapping[str, Sequence[Mapping[str, Any]]],
    run: Mapping[str, Any] | None = None,
) -> Path:
    """The output of a sharded run, as its own writer writes it.

    Rows have `key`, `alt` (a text), `caption`, `error_class`, `error`. run: what `_run.json` says;
    None: there is none, as where somebody else wrote the tables.
    """
    from altogether_rt.data.sinks.shards.parts import write_parquet
    from altogether_rt.data.sinks.shards.rows import ShardRow, row_batch
    from altogether_rt.data.sinks.shards.run_file import join_run
    from altogether_rt.data.sinks.shards.store import LocalStore

    if run is not None:
        join_run(LocalStore(folder), run)
    for name, rows in shards.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        numbered = [
            ShardRow(number, **{**row, "alt": [row["alt"]] if row["alt"] else []})
            for number, row in enumerate(rows)
        ]
        with path.open("w+b") as file:
            digest = write_parquet(file, [row_batch(numbered)], {})
        stats = json.dumps({"count": len(rows)}).encode()
        if run is not None:
            stats = _stats(name, run, len(rows), digest)
        path.with_name(f"{path.stem}_stats.json").write_bytes(stats)
    return folder


def _stats(shard: str, run: Mapping[str, Any], num_rows: int, digest: str) -> bytes:
    from altogether_rt.data.shards.base import Ending
    from altogether_rt.data.sinks.shards.run_file import run_id_of
    from altogether_rt.data.sinks.shards.stats import RowCounts, ShardStats

    counts, ending = RowCounts(num_rows, num_rows), Ending("whole")
    return ShardStats(
        *(shard, run_id_of(run), "done", counts, ending, None, 1, "etag", digest, 0.0, 0.0, 0.0)
    ).to_json()
