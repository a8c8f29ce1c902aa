"""Parquet files with images, or with the paths of images: every row of one, in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from altogether_rt.data.alts import Alts, make_alts
from altogether_rt.data.embeddings import import_parquet
from altogether_rt.data.images.files import check_bytes
from altogether_rt.data.problems import Problems
from altogether_rt.data.shards.base import Ending, Shard, ShardSource
from altogether_rt.data.shards.options import AltKey, ShardOptions
from altogether_rt.data.shards.pages.rows import Cell, group_rows
from altogether_rt.data.shards.samples.alt_texts import parse_json, record_texts
from altogether_rt.data.shards.samples.columns import ShardColumns, find_columns
from altogether_rt.data.shards.samples.joined import JoinTable
from altogether_rt.data.shards.samples.row_keys import RowKey, UniqueKeys, text_of_bytes
from altogether_rt.data.shards.storage import is_url, local_path
from altogether_rt.data.sources.base import Sample
from altogether_rt.errors import ImageError

__all__ = ["ParquetSource"]

_BUFFER_BYTES: Final = 1 << 20


class ParquetSource(ShardSource):
    """The rows of a Parquet file on this machine. A row whose image is null has an error."""

    def __init__(
        self,
        shard: Shard,
        path: str | Path,
        options: ShardOptions | None = None,
        *,
        joined: JoinTable | None = None,
    ) -> None:
        """Read the footer. A file without one has no samples, and its ending says so.

        Raises AltogetherError if no column is of images, MissingDependencyError without pyarrow.
        """
        parquet = import_parquet()
        import pyarrow

        self._errors = (OSError, ValueError, pyarrow.ArrowException)
        self._options = options or ShardOptions()
        self._joined = joined
        self._path_name = os.fspath(path)
        self._ending = Ending("whole")
        self._unusable = Problems()  # alt-texts
        self._not_chosen = Problems()  # further images of a row
        self.shard = shard
        self._file: Any = None
        root = local_path(shard.url)  # of the paths in the file
        self._root = None if root is None else os.path.realpath(os.path.dirname(root))
        try:
            self._file = parquet.ParquetFile(
                path,
                pre_buffer=False,  # or it reads whole row groups
                buffer_size=_BUFFER_BYTES,
                page_checksum_verification=True,
            )
        except self._errors as error:
            size = os.path.getsize(path)
            kind = _first_line(error)
            self._ending = Ending("truncated", size, f"it has no readable footer: {kind}")
            return
        self._columns = find_columns(self._file.schema_arrow, self._options, shard.url)
        self.shard = replace(shard, num_expected=self._file.metadata.num_rows)

    @property
    def ending(self) -> Ending:
        return self._ending

    def unused(self) -> Mapping[str, Problems]:
        return {"alt_texts_unusable": self._unusable, "images_not_chosen": self._not_chosen}

    def num_samples(self, without: Any = ()) -> int | None:
        return None if without or self._file is None else int(self._file.metadata.num_rows)

    def samples(self) -> Iterator[Sample]:
        return self.samples_where(lambda index, key: True)

    def samples_where(self, wanted: Callable[[int, str], bool]) -> Iterator[Sample]:
        if self._file is None:
            return
        self._unusable, self._not_chosen = Problems(), Problems()
        unique = UniqueKeys().unique
        first = 0
        for group in range(self._file.metadata.num_row_groups):
            num_rows = self._file.metadata.row_group(group).num_rows
            keys = self._keys(group, first, num_rows)

            def is_wanted(at: int, keys: list[RowKey] = keys, first: int = first) -> bool:
                return wanted(first + at, unique(keys[at]))

            yield from self._group(group, keys, is_wanted)
            first += num_rows

    # -- one row group

    def _keys(self, group: int, first: int, num_rows: int) -> list[RowKey]:
        """The keys of its rows: their numbers where the column has none or cannot be read."""
        keys = [RowKey(f"{first + index:09}") for index in range(num_rows)]
        name = self._columns.key
        if name is None:
            return keys
        try:
            values = self._file.read_row_group(group, columns=[name], use_threads=False)[name]
        except self._errors as error:
            self._damage(group, error)
            return keys
        for key, value in zip(keys, values, strict=False):
            text = value.as_py()
            if isinstance(text, bytes):
                text = text_of_bytes(text)
            if text is not None and text != "":
                key.text = str(text)
        return keys

    def _group(
        self, group: int, keys: list[RowKey], is_wanted: Callable[[int], bool]
    ) -> Iterator[Sample]:
        """The samples that are wanted. Each is asked for when the one before has been taken: the
        answer may be that nothing more is wanted."""
        rows: Iterator[tuple[Cell, dict[str, Any]]] | None = None
        done = 0  # rows that were read
        damage = ""
        for at in range(len(keys)):
            if not is_wanted(at):
                continue
            sample = None
            try:
                if rows is None:
                    rows = group_rows(self._file, self._path_name, group, self._columns)
                while not damage and done <= at:
                    cell, row = next(rows, (None, {}))
                    if cell is None:
                        raise ValueError(f"it ends after {done:,} of {len(keys):,} rows")
                    done += 1
                    if done > at:
                        sample = self._sample(keys[at], cell, row)
            except self._errors as error:
                damage = self._damage(group, error)
            if sample is None:
                image = ImageError("damaged", f"{keys[at].text} cannot be read: {damage}.")
                sample = Sample(keys[at].text, Alts(), image)
            yield sample
        if rows is not None and not damage:
            self._read_rest(group, rows, len(keys) - done)

    def _read_rest(self, group: int, rows: Iterator[Any], num_rows: int) -> None:
        """Find out whether the rows behind those that were wanted can be read."""
        try:
            num_read = sum(1 for _ in rows)
            if num_read < num_rows:
                raise ValueError(f"its last {num_rows - num_read:,} rows are not there")
        except self._errors as error:
            self._damage(group, error)

    def _damage(self, group: int, error: Exception) -> str:
        """Note it; returns words for the samples that it takes."""
        info = self._file.metadata.row_group(group)
        offset = min(
            info.column(index).dictionary_page_offset or info.column(index).data_page_offset
            for index in range(info.num_columns)
        )
        if self._ending.kind == "whole":
            message = f"its row group {group} cannot be read: {_first_line(error)}"
            self._ending = Ending("damaged", offset, message)
        return f"row group {group} is damaged: {_first_line(error)}"

    # -- one row

    def _sample(self, key: RowKey, cell: Cell, row: dict[str, Any]) -> Sample:
        fields = {name: str(row[name]) for name in self._columns.fields if row[name] is not None}
        joined = {} if self._joined is None else self._joined.find(key.text, fields)
        alts = Alts()
        if joined and self._columns.first_alone:  # what was joined comes before what is in the file
            alts = self._joined_alts(key.text, joined)
        if not alts.texts:
            alts = _row_alts(self._columns, row, joined, key.text, self._unusable)
        image: Path | bytes | ImageError
        if key.duplicate_of is not None:
            image = ImageError(
                "duplicate", f"{key.duplicate_of} comes again in the shard, as {key.text}."
            )
        else:
            try:
                image = self._image(key.text, cell)
            except ImageError as error:
                image = error
        return Sample(key.text, alts, image, self._options.kept(fields))

    def _joined_alts(self, key: str, record: Mapping[str, Any]) -> Alts:
        try:
            return make_alts(dict.fromkeys(record_texts(record)))
        except ValueError as error:
            self._unusable.add(f"{key} {error}")
            return Alts()

    def _image(self, name: str, cell: Cell) -> Path | bytes:
        """The image in a cell, which is not copied before its size is known."""
        if cell.num_images > 1:
            self._not_chosen.add(name)
        content = cell.content
        size = 0 if content is None else len(content)
        if size > 0:
            check_bytes(size, self._options.limits.max_bytes, name)
            return content if isinstance(content, bytes) else bytes(content.to_pybytes())
        if cell.path:
            return self._path(name, cell.path)
        if content is not None:
            raise ImageError("empty", f"{name} has an image of no bytes.")
        what = "null" if cell.num_images else "an empty list"
        raise ImageError("missing", f"{name} has no image: its {self._columns.image} is {what}.")

    def _path(self, name: str, text: str) -> Path:
        """A file in the folder of the Parquet file: paths come from elsewhere and may say all."""
        if is_url(text):
            raise ImageError("not_a_file", f"{name} is at {text[:200]}, which is not downloaded.")
        if self._root is None:
            raise ImageError("not_a_file", f"{name} is {text[:200]}, beside a file elsewhere.")
        try:
            path = os.path.realpath(os.path.join(self._root, local_path(text) or text))
        except ValueError as error:  # a NUL
            raise ImageError("not_a_file", f"{name} has a path that is none.") from error
        if not path.startswith(self._root.rstrip("/") + "/"):
            raise ImageError("not_a_file", f"{name} is {text[:200]}, outside of {self._root}.")
        return Path(path)


def _row_alts(
    columns: ShardColumns,
    row: Mapping[str, Any],
    joined: Mapping[str, Any],
    name: str,
    unusable: Problems,
) -> Alts:
    """The alt-texts of a row. joined: its record from elsewhere, whose columns come first."""
    texts: list[str] = []
    for alt in columns.alts:
        try:
            if alt.name in joined and not columns.first_alone:
                texts += record_texts(
                    joined[alt.name] if alt.path else joined, alt.path or alt.name
                )
            elif alt.name not in columns.not_here:
                texts += _cell_texts(row[alt.name], alt)
        except ValueError as error:
            unusable.add(f"{name} {error}")
        if columns.first_alone:
            found = make_alts(dict.fromkeys(texts))
            if found.texts:
                return found
    return make_alts(dict.fromkeys(texts))


def _cell_texts(value: Any, alt: AltKey) -> list[str]:
    """The texts of a cell; a text in a column that is asked for a key is JSON."""
    is_json = isinstance(value, (str, bytes)) and (alt.path is not None or alt.name == "json")
    if is_json:
        value = parse_json(value.encode() if isinstance(value, str) else value)
    elif isinstance(value, bytes):
        value = value.decode()  # a ValueError, unless it is UTF-8
    if alt.name == "texts" and alt.path is None:
        value = {"texts": value}
    return record_texts(value, alt.path)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200].rstrip(".")
