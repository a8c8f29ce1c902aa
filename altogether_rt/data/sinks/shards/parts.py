"""The durable parts of a shard that is being captioned, and the Parquet file they become.

A part is an Arrow file with some consecutive rows, named by the rows it holds. It appears whole, so
a process that dies loses what came after its last part and nothing else. Where parts end does not
matter: the Parquet file is written from their rows alone, so its bytes are the same however often
the work was interrupted.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from altogether_rt.data.embeddings import import_parquet
from altogether_rt.data.sinks.shards.rows import ShardRow, as_rows, row_batch, schema
from altogether_rt.data.sinks.shards.store import OutputStore

__all__ = [
    "Part",
    "Parts",
    "hash_of",
    "read_metadata",
    "stored_rows",
    "stored_tables",
    "write_parquet",
]

#: Rows of a row group of the Parquet file.
_GROUP_ROWS = 16_384

_NAME = re.compile(r"(\d{10})-(\d{10})\.arrow")

_METADATA_KEY = b"altogether_rt"


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` of a shard, in a file of their own."""

    name: str
    start: int
    stop: int
    seconds: float = 0.0  # that its rows took
    began: float = 0.0  # when they were begun, in seconds since 1970


class Parts:
    """The parts of one shard. Parts made for other circumstances are as good as absent."""

    def __init__(self, store: OutputStore, folder: str, circumstances: Mapping[str, Any]) -> None:
        """circumstances: the run, the input and what the rows were made from; JSON data."""
        self._store = store
        self._folder = folder
        self._circumstances = json.dumps(circumstances, sort_keys=True)
        self._parts: list[Part] = []

    @property
    def num_rows(self) -> int:
        """Rows that are durable: 0 to this number, without a gap."""
        return self._parts[-1].stop if self._parts else 0

    @property
    def seconds(self) -> float:
        """Time that the parts took, in all processes that wrote them."""
        return sum(part.seconds for part in self._parts)

    @property
    def began(self) -> float | None:
        """When the first part was begun; None if there is none."""
        return self._parts[0].began if self._parts else None

    def recover(self) -> None:
        """Find the parts that earlier processes left. What cannot be used is removed."""
        found = [part for name in self._files() if (part := self._parse(name)) is not None]
        self._parts = []
        # Two processes that did not know of each other may have left different parts of the same
        # rows: of those that go on from where the last one ended, the longest is taken.
        for part in sorted(found, key=lambda part: (part.start, -part.stop)):
            if part.start == self.num_rows and (read := self._read(part)) is not None:
                self._parts.append(read[0])
        used = {part.name for part in self._parts}
        self._store.remove(name for name in self._files() if name not in used)

    def append(self, rows: Sequence[ShardRow], began: float) -> None:
        """Make rows durable that follow those of the last part.

        began: when they were begun, as `time.time` tells it.
        """
        start = self.num_rows
        stop = start + len(rows)
        name = f"{self._folder}/{start:010}-{stop:010}.arrow"
        seconds = max(0.0, time.time() - began)
        self._store.write(name, self._encode(rows, {"seconds": seconds, "began": began}))
        self._parts.append(Part(name, start, stop, seconds, began))

    def tables(self) -> Iterator[Any]:
        """The rows as Arrow tables, one for each part. Raises FileNotFoundError if one is gone."""
        for part in self._parts:
            read = self._read(part)
            if read is None:
                raise FileNotFoundError(part.name)
            yield read[1]

    def rows(self) -> Iterator[ShardRow]:
        """The durable rows, in order."""
        for table in self.tables():
            yield from as_rows(table)

    def remove(self) -> None:
        """Remove all parts."""
        self._store.remove(self._files())
        self._parts = []

    def _files(self) -> list[str]:
        return [name for name in self._store.files(self._folder) if name.endswith(".arrow")]

    def _parse(self, name: str) -> Part | None:
        match = _NAME.fullmatch(name.rpartition("/")[2])
        if match is None:
            return None
        start, stop = map(int, match.groups())
        return Part(name, start, stop) if start < stop else None

    def _encode(self, rows: Sequence[ShardRow], times: Mapping[str, float]) -> bytes:
        from pyarrow import ipc

        about = {"circumstances": self._circumstances, **times}
        table = row_batch(rows).replace_schema_metadata({_METADATA_KEY: json.dumps(about)})
        buffer = io.BytesIO()
        with ipc.new_file(buffer, table.schema) as writer:
            writer.write_table(table)
        return buffer.getvalue()

    def _read(self, part: Part) -> tuple[Part, Any] | None:
        """A part and its table; None if it is gone, damaged, or made for something else."""
        import pyarrow
        from pyarrow import ipc

        data = self._store.read(part.name)
        if data is None:
            return None
        try:
            table = ipc.open_file(pyarrow.BufferReader(data)).read_all()
            about = json.loads(table.schema.metadata[_METADATA_KEY])
            times = float(about["seconds"]), float(about["began"])
        except (pyarrow.ArrowException, KeyError, TypeError, ValueError, OSError):
            return None
        same_rows = table.num_rows == part.stop - part.start and table.schema.equals(schema())
        if not same_rows or about.get("circumstances") != self._circumstances:
            return None
        return Part(part.name, part.start, part.stop, *times), table


def write_parquet(file: BinaryIO, tables: Iterable[Any], about: Mapping[str, Any]) -> str:
    """Write tables of rows as one Parquet file; returns its SHA-256.

    about: JSON data for the file's key-value metadata, under `altogether_rt`. The bytes depend on
    the rows and on `about` alone.
    """
    import pyarrow as arrow

    parquet = import_parquet()
    text = json.dumps(about, sort_keys=True, ensure_ascii=False)
    columns = schema().with_metadata({_METADATA_KEY: text.encode()})
    hashed = _Hashed(file)
    options = {"compression": "zstd", "write_statistics": True, "store_schema": True}
    with parquet.ParquetWriter(hashed, columns, **options) as writer:
        held: list[Any] = []
        num_held = 0
        for table in tables:
            held.append(table.replace_schema_metadata(columns.metadata))
            num_held += table.num_rows
            while num_held >= _GROUP_ROWS:
                together = arrow.concat_tables(held)
                _write_group(writer, together.slice(0, _GROUP_ROWS))
                held = [together.slice(_GROUP_ROWS)]
                num_held -= _GROUP_ROWS
        if num_held:
            _write_group(writer, arrow.concat_tables(held))
    return hashed.digest.hexdigest()


def _write_group(writer: Any, table: Any) -> None:
    # In one piece: how the rows were divided into parts must leave no trace.
    writer.write_table(table.combine_chunks(), row_group_size=_GROUP_ROWS)


class _Hashed(io.RawIOBase):
    """A file that is written from its start to its end, and hashed on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = 0
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        view = memoryview(data)
        self._file.write(view)
        self.digest.update(view)
        self._size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self._size

    def close(self) -> None:
        """The file itself stays open: it belongs to the caller."""


def read_metadata(file: BinaryIO) -> tuple[dict[str, Any], int] | None:
    """What `write_parquet` was told, and the number of rows; None for any other file."""
    import pyarrow

    parquet = import_parquet()
    try:
        opened = parquet.ParquetFile(file, pre_buffer=False)
        about = json.loads(opened.schema_arrow.metadata[_METADATA_KEY])
    except (pyarrow.ArrowException, KeyError, TypeError, ValueError, OSError):
        return None
    if not isinstance(about, dict) or not opened.schema_arrow.equals(schema()):
        return None
    return about, opened.metadata.num_rows


def stored_tables(file: BinaryIO) -> Iterator[Any]:
    """The rows of a file that `write_parquet` made, as Arrow tables of at most 1,024."""
    import pyarrow

    opened = import_parquet().ParquetFile(file, pre_buffer=False)
    for batch in opened.iter_batches(1024, use_threads=False):
        yield pyarrow.Table.from_batches([batch])


def stored_rows(file: BinaryIO) -> Iterator[ShardRow]:
    """The rows of a file that `write_parquet` made."""
    for table in stored_tables(file):
        yield from as_rows(table)


def hash_of(file: BinaryIO) -> str:
    """The SHA-256 of a file's content."""
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
