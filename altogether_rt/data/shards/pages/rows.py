"""Rows of a row group, in memory that does not grow with the group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from altogether_rt.data.shards.pages import values as pages
from altogether_rt.data.shards.samples.columns import ShardColumns

__all__ = ["Cell", "group_rows"]

#: Bytes of images read at once, and rows.
_BATCH_BYTES: Final = 16 << 20
_MAX_BATCH_ROWS: Final = 256


class Cell(NamedTuple):
    """What the column of images has in a row."""

    content: Any  # bytes, or pyarrow's buffer of them; None for null
    path: str | None
    num_images: int = 1  # of a list; the first is in the cell


def group_rows(
    file: Any, path: str, group: int, columns: ShardColumns
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """(image, values of the other columns) of each row of a `ParquetFile`'s row group.

    A group whose images are large is read page by page, of which pyarrow would keep two. Raises
    OSError, ValueError, pyarrow.ArrowException.
    """
    leaf = _large_leaf(file, group, columns.image)
    if leaf is None:
        yield from _by_batches(file, group, columns)
        return
    beside = f"{columns.image}.path"
    has_path = any(file.schema.column(i).path == beside for i in range(len(file.schema)))
    names = [*columns.others, *([beside] if has_path else [])]
    others = _batches(file, group, names) if names else iter(())
    rows = ((batch, index) for batch in others for index in range(batch.num_rows))
    for content in pages.large_values(path, *leaf):
        if not names:
            yield Cell(content, None), {}
            continue
        batch, index = next(rows)
        row = {name: batch.column(name)[index].as_py() for name in columns.others}
        image = batch.column(columns.image)[index].as_py() if has_path else None
        yield Cell(content, image["path"] if image else None), row


def _by_batches(
    file: Any, group: int, columns: ShardColumns
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    for batch in _batches(file, group, list(dict.fromkeys([columns.image, *columns.others]))):
        images = batch.column(columns.image)
        others = {name: batch.column(name) for name in columns.others}
        for index in range(batch.num_rows):
            row = {name: column[index].as_py() for name, column in others.items()}
            yield _cell(images[index], columns.is_path), row


def _batches(file: Any, group: int, names: list[str]) -> Iterator[Any]:
    info = file.metadata.row_group(group)
    row_bytes = max(1, info.total_byte_size // max(1, info.num_rows))
    rows = max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // row_bytes))
    return iter(file.iter_batches(rows, row_groups=[group], columns=names, use_threads=False))


def _large_leaf(file: Any, group: int, image: str) -> tuple[Any, Any] | None:
    """(metadata, schema) of the column of images, if it is large and read by pages."""
    info = file.metadata.row_group(group)
    for index in range(info.num_columns):
        schema = file.schema.column(index)
        if schema.path in (image, f"{image}.bytes"):
            chunk = info.column(index)
            is_large = chunk.total_uncompressed_size >= pages.LARGE_BYTES
            return (chunk, schema) if is_large and pages.can_read(chunk, schema) else None
    return None


def _cell(value: Any, is_path: bool) -> Cell:
    """The image in a cell; its bytes are not copied."""
    count = 1
    items = getattr(value, "values", None)
    if items is not None and not hasattr(value, "keys") and value.is_valid:  # a list
        count = len(items)
        if count == 0:
            return Cell(None, None, 0)
        value = items[0]
    value = _decoded(value)
    path = None
    if value.is_valid and hasattr(value, "keys"):  # `datasets`' {bytes, path}
        path = value["path"].as_py() if "path" in value else None
        value = _decoded(value["bytes"])
    if not value.is_valid:
        return Cell(None, path, count)
    return Cell(None, value.as_py(), count) if is_path else Cell(value.as_buffer(), path, count)


def _decoded(value: Any) -> Any:
    """A value itself where its column refers to a dictionary of values."""
    return value.value if hasattr(value, "dictionary") else value
