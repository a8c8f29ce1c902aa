"""Opens Parquet files of strangers: what a row group unpacks to is bounded before it is read."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO, Final

from altogether_rt.data.parquet_footer import column_chunks
from altogether_rt.errors import MissingDependencyError

__all__ = ["check_row_groups", "import_parquet", "open_parquet", "parquet_errors"]

#: Of one column in one row group, unpacked. A million alt-texts have 100 MB.
_MAX_CHUNK_BYTES: Final = 256 << 20
_MAX_CHUNK_VALUES: Final = 64 << 20


def import_parquet() -> Any:
    """pyarrow's parquet module. Raises MissingDependencyError if it is not installed."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "parquet", "a .parquet file") from error
    return parquet


def parquet_errors() -> tuple[type[Exception], ...]:
    """What pyarrow raises for a file that it cannot read."""
    import pyarrow

    return OSError, ValueError, MemoryError, pyarrow.ArrowException


def open_parquet(source: Path | BinaryIO, dictionaries: Collection[str] = ()) -> Any:
    """A ParquetFile. dictionaries: columns of texts in which one text may stand in many rows; it
    is then in memory once.

    Raises one of `parquet_errors`, or MissingDependencyError without pyarrow.
    """
    parquet = import_parquet()
    return parquet.ParquetFile(source, pre_buffer=False, read_dictionary=list(dictionaries))


def check_row_groups(source: Path | BinaryIO, columns: Collection[str]) -> None:
    """Raises ValueError if a row group of a file has more in one of `columns` than fits.

    columns: the first parts of their paths, `alt` for `alt.list.element`. Raises OSError if the
    file cannot be read.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            check_row_groups(file, columns)
        return
    for chunk in column_chunks(source):
        if not chunk.path or chunk.path[0] not in columns:
            continue
        count, size = chunk.num_values, chunk.num_bytes
        if not (0 <= size <= _MAX_CHUNK_BYTES and 0 <= count <= _MAX_CHUNK_VALUES):
            raise ValueError(
                f"a row group has {count} values of {size} bytes in {'.'.join(chunk.path):.60}: "
                "write it with smaller row groups"
            )
