"""How many samples a shard should have, by the files that img2dataset writes beside it."""

from __future__ import annotations

import json
import os
from typing import Any, Final

from altogether_rt.data.shards.storage import local_path, read_small
from altogether_rt.errors import AltogetherError

__all__ = ["expected_samples", "local_expected"]

_STATS: Final = "_stats.json"
_MAX_BYTES: Final = 8 << 20
#: img2dataset's word, in the column `status`, for a sample that is in the shard.
_SUCCESS: Final = "success"


def local_expected(path: str) -> int | None:
    """The expected samples of a shard on this machine, by its `_stats.json` alone."""
    return _from_stats(_stem(path) + _STATS) if os.path.isfile(_stem(path) + _STATS) else None


def expected_samples(url: str) -> int | None:
    """The expected samples of a shard, by `NNNNN_stats.json` or `NNNNN.parquet` beside it.

    None where neither says so; a file beside it that cannot be read is no error.
    """
    found = _from_stats(_stem(url) + _STATS)
    path = local_path(_stem(url) + ".parquet")
    if found is None and path is not None and path != local_path(url) and os.path.isfile(path):
        found = _from_parquet(path)
    return found


def _stem(url: str) -> str:
    folder, slash, base = url.rstrip("/").rpartition("/")
    return folder + slash + base.partition(".")[0]


def _from_stats(url: str) -> int | None:
    try:
        raw = read_small(url, _MAX_BYTES)
        stats: Any = None if raw is None else json.loads(raw)
    except (AltogetherError, ValueError, RecursionError):
        return None
    count = stats.get("successes") if isinstance(stats, dict) else None
    return count if isinstance(count, int) and count >= 0 else None


def _from_parquet(path: str) -> int | None:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        return None
    try:
        with parquet.ParquetFile(path) as file:
            if "status" not in file.schema_arrow.names:
                return None
            count = 0
            for batch in file.iter_batches(columns=["status"]):
                count += sum(value == _SUCCESS for value in batch.column(0).to_pylist())
            return count
    except (OSError, ValueError, pyarrow.ArrowException):
        return None
