"""Records of Parquet files, a few at a time; columns of pixels are never read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from altogether_rt.data.alt_files.lines import FileNotes
from altogether_rt.data.parquet_files import (
    check_row_groups,
    import_parquet,
    open_parquet,
    parquet_errors,
)
from altogether_rt.errors import AltogetherError, reason

__all__ = ["parquet_records"]

_BATCH_ROWS: Final = 4096
_SLICE_ROWS: Final = 128  # of which the texts are in memory as Python's


def parquet_records(
    path: Path, file: BinaryIO, notes: FileNotes
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """(where, record) of each row, "row 7", with its texts, lists of texts and numbers.

    Of an image object (Hugging Face's `{bytes, path}`) only the path is read. Raises
    AltogetherError if the file is not Parquet, MissingDependencyError without pyarrow.
    """
    import_parquet()
    import pyarrow

    number = 0
    try:
        schema = open_parquet(file).schema_arrow
        texts = [field.name for field in schema if pyarrow.types.is_string(field.type)]
        opened = open_parquet(file, texts)
        notes.columns.update(dict.fromkeys(schema.names))
        wanted = [name for field in schema for name in _readable(field, pyarrow.types)]
        if not wanted:
            return
        check_row_groups(file, {name.partition(".")[0] for name in wanted})
        for batch in opened.iter_batches(_BATCH_ROWS, columns=wanted, use_threads=False):
            for start in range(0, len(batch), _SLICE_ROWS):
                for record in batch.slice(start, _SLICE_ROWS).to_pylist():
                    number += 1
                    yield f"row {number}", record
    except parquet_errors() as error:
        raise AltogetherError(f"{path} cannot be read as Parquet: {reason(error)}.") from error


def _readable(field: Any, types: Any) -> Iterator[str]:
    """The column of a field if it can hold names or texts; of an image object, its path."""
    kind = field.type
    if types.is_struct(kind):
        if kind.get_field_index("path") >= 0:
            yield f"{field.name}.path"
        return
    if types.is_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
        if types.is_struct(kind):
            return
    if types.is_dictionary(kind):
        kind = kind.value_type
    binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_list(kind)
    if not binary:
        yield field.name
