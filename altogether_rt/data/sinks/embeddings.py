"""Saves embeddings so that a run which dies can be continued.

Each is appended to a journal, FILE.part, before its caption's row is written, so whatever has a row
of this run has an embedding. At the end the journal, and what FILE held before, become FILE in the
order of the folder, each file by one rename; only then is the journal removed.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import numpy as np

from altogether_rt.artifacts.files import NewFile, new_file
from altogether_rt.captions import EmbeddedImage
from altogether_rt.data.embeddings import (
    EncoderStamp,
    SavedEmbeddings,
    import_parquet,
    names_path,
)
from altogether_rt.data.sinks.journal import Journal
from altogether_rt.data.sources.scan import order_key
from altogether_rt.errors import AltogetherError

__all__ = ["EmbeddingSink"]

#: Rows of a parquet row group.
_ROWS_PER_GROUP: Final = 4096

_CONTENT: Final = re.compile("[0-9a-f]{32}")


class EmbeddingSink:
    """A file of embeddings under construction; a context manager."""

    def __init__(
        self,
        path: Path,
        stamp: EncoderStamp,
        *,
        order_key: Callable[[str], Any] = order_key,
        overwrite: bool = False,
    ) -> None:
        """order_key: sorts keys as the source yields them; by default as a folder does.

        Raises AltogetherError if another run is writing FILE, or if FILE, or what a stopped run
        left of it, holds embeddings of another encoder.
        """
        if path.suffix not in (".npy", ".parquet"):
            raise AltogetherError(f"{path} is neither a .npy nor a .parquet file: name one.")
        if path.suffix == ".parquet":
            import_parquet()  # if it is missing, say so now rather than after hours of work
        self.path = path
        self._stamp = stamp
        self._order_key = order_key
        self._saved = None
        for name in (path, names_path(path)):
            if name.exists() and not name.is_file():
                raise AltogetherError(f"{name} is not a regular file: name another.")
        if path.exists() and not overwrite:
            self._saved = SavedEmbeddings(path, stamp)
        self._journal = Journal(path)
        #: Offset of each new image's line in the journal.
        self._offsets: dict[str, int] = {}
        try:
            self._check_ours()
            if overwrite:
                self._journal.cut(0)
            self._recover()
        except BaseException:
            self._journal.close()
            raise

    def __contains__(self, name: str) -> bool:
        return name in self._offsets or (self._saved is not None and name in self._saved)

    def write(self, name: str, image: EmbeddedImage) -> None:
        """Append one; after this call it survives the death of the process."""
        values = base64.b64encode(image.embedding.astype("<f4").tobytes()).decode()
        row = {"file_name": name, "content": image.content.hex(), "embedding": values}
        self._offsets[name] = self._journal.append(_encode(row))

    def finish(self) -> None:
        """Make all embeddings the file."""
        if not self._offsets:
            return
        names = {*self._offsets, *(self._saved.names() if self._saved is not None else ())}
        ordered = sorted(names, key=self._order_key)
        if self.path.suffix == ".npy":
            with NewFile(names_path(self.path)) as lines, NewFile(self.path) as array:
                self._write_npy(ordered, array.file, lines.file)
                lines.commit()
                array.commit()
        else:
            with new_file(self.path) as file:
                self._write_parquet(ordered, file)
        self._journal.cut(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._offsets:  # nothing but the header
            self._journal.cut(0)
        self._journal.close()

    def _check_ours(self) -> None:
        """Raise AltogetherError if the journal begins with something else than a header does."""
        begin = _encode(self._stamp.header())[:8]
        with self._journal.open() as file:
            found = file.read(len(begin))
        if not begin.startswith(found) and found.strip(b"\0"):
            raise self._journal.not_ours("holds no embeddings")

    def _recover(self) -> None:
        """Take over what a stopped run left."""
        for offset, row, _ in self._journal.recover(_parse):
            if offset == 0:
                self._stamp.check(row, self._journal.path)
            elif _is_row(row):
                self._offsets[row["file_name"]] = offset
            else:
                self._journal.cut(offset)
                break
        if self._journal.size == 0:
            self._journal.append(_encode(self._stamp.header()))

    def _images(self, names: Iterable[str]) -> Iterator[tuple[str, EmbeddedImage]]:
        with self._journal.open() as file:
            for name in names:
                offset = self._offsets.get(name)
                if offset is None:
                    assert self._saved is not None
                    yield name, self._saved.get(name)
                    continue
                file.seek(offset)
                row = json.loads(file.readline())
                values = np.frombuffer(base64.b64decode(row["embedding"]), "<f4")
                yield name, EmbeddedImage(bytes.fromhex(row["content"]), values)

    def _write_npy(self, names: list[str], file: BinaryIO, lines: BinaryIO) -> None:
        shape = (len(names), self._stamp.embed_dim)
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        lines.write(_encode(self._stamp.header()))
        for name, image in self._images(names):
            values = image.embedding.astype("<f4").tobytes()
            file.write(values)
            row = {"file_name": name, "content": image.content.hex()}
            lines.write(_encode({**row, "crc32": zlib.crc32(values)}))

    def _write_parquet(self, names: list[str], file: BinaryIO) -> None:
        import pyarrow

        parquet = import_parquet()
        for name in names:
            try:
                name.encode("utf-8")
            except UnicodeEncodeError as error:
                raise AltogetherError(
                    f"the file name {name!r} is not text, which {self.path} cannot hold: "
                    "save to a .npy file."
                ) from error
        schema = pyarrow.schema(
            [
                ("file_name", pyarrow.string()),
                ("content", pyarrow.string()),
                ("embedding", pyarrow.list_(pyarrow.float32())),
            ],
            metadata={"altogether-rt": json.dumps(self._stamp.header())},
        )
        images = self._images(names)
        with parquet.ParquetWriter(file, schema) as writer:
            while group := list(itertools.islice(images, _ROWS_PER_GROUP)):
                columns = {
                    "file_name": [name for name, _ in group],
                    "content": [image.content.hex() for _, image in group],
                    "embedding": [image.embedding for _, image in group],
                }
                writer.write_table(pyarrow.table(columns, schema=schema))


def _encode(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode("ascii") + b"\n"


def _parse(line: bytes) -> dict[str, Any] | None:
    """The JSON object in a whole line; None for anything else."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _is_row(row: dict[str, Any]) -> bool:
    name, content, values = (row.get(key) for key in ("file_name", "content", "embedding"))
    if not (isinstance(name, str) and isinstance(content, str) and isinstance(values, str)):
        return False
    try:
        num_bytes = len(base64.b64decode(values, validate=True))
    except ValueError:
        return False
    return num_bytes % 4 == 0 and _CONTENT.fullmatch(content) is not None
