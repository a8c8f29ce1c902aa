"""Saves embeddings so that a run which dies can go on.

Each is appended to a journal, FILE.part, before its caption's row is written: whatever has a row of
this run has an embedding. At the end the journal, and what FILE held before, become FILE in the
order of the folder, each file by one rename; only then is the journal removed.
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from typing_extensions import Self

from altogether_rt.captions import EmbeddedImage
from altogether_rt.data.embeddings import (
    EncoderStamp,
    SavedEmbeddings,
    import_parquet,
    names_path,
)
from altogether_rt.data.sources.scan import order_key
from altogether_rt.errors import AltogetherError

__all__ = ["EmbeddingSink"]

#: Rows of a parquet row group.
_ROWS_TOGETHER = 4096


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
        """Raises AltogetherError if FILE, or what a stopped run left, is of another encoder."""
        if path.suffix not in (".npy", ".parquet"):
            raise AltogetherError(f"{path} is neither a .npy nor a .parquet file: name one.")
        if path.suffix == ".parquet":
            import_parquet()  # now rather than after hours of work
        self.path = path
        self._stamp = stamp
        self._order_key = order_key
        self._saved = None
        if path.exists() and not overwrite:
            self._saved = SavedEmbeddings(path, stamp)
        self._part_path = Path(f"{path}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._part = os.open(self._part_path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        try:
            fcntl.flock(self._part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._part)
            raise AltogetherError(
                f"another run is writing {path}: wait for it, or choose another file."
            ) from error
        except OSError:
            pass  # a file system without locks
        #: Where each new image's line begins in the journal.
        self._places: dict[str, int] = {}
        self._size = 0
        if overwrite:
            os.ftruncate(self._part, 0)
        self._recover()

    def __contains__(self, name: str) -> bool:
        return name in self._places or (self._saved is not None and name in self._saved)

    def write(self, name: str, image: EmbeddedImage) -> None:
        """Appends one; after this call it survives the death of the process."""
        values = base64.b64encode(image.embedding.astype("<f4").tobytes()).decode()
        row = {"file_name": name, "content": image.content.hex(), "embedding": values}
        self._places[name] = self._append(row)

    def finish(self) -> None:
        """Makes all there is the file."""
        if not self._places:
            return
        names = {*self._places, *(self._saved.names() if self._saved is not None else ())}
        ordered = sorted(names, key=self._order_key)
        temporary = Path(f"{self.path}.tmp")
        if self.path.suffix == ".npy":
            names_temporary = Path(f"{names_path(self.path)}.tmp")
            self._write_npy(ordered, temporary, names_temporary)
            os.replace(names_temporary, names_path(self.path))
        else:
            self._write_parquet(ordered, temporary)
        os.replace(temporary, self.path)
        os.ftruncate(self._part, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        header_alone = not self._places
        if os.fstat(self._part).st_size == 0 or header_alone:
            self._part_path.unlink(missing_ok=True)
        os.close(self._part)

    def _recover(self) -> None:
        """Takes what a stopped run left; a half-written last line is cut."""
        with self._part_path.open("rb") as file:
            for number, line in enumerate(file):
                row = _parse(line)
                if row is None:
                    os.ftruncate(self._part, self._size)
                    break
                if number == 0:
                    self._stamp.check(row, self._part_path)
                else:
                    self._places[row["file_name"]] = self._size
                self._size += len(line)
        if self._size == 0:
            self._append(self._stamp.header())

    def _append(self, row: dict[str, Any]) -> int:
        line = json.dumps(row).encode() + b"\n"
        left = memoryview(line)
        while left:
            left = left[os.write(self._part, left) :]
        self._size += len(line)
        return self._size - len(line)

    def _images(self, names: Iterable[str]) -> Iterator[tuple[str, EmbeddedImage]]:
        with self._part_path.open("rb") as file:
            for name in names:
                place = self._places.get(name)
                if place is None:
                    assert self._saved is not None
                    yield name, self._saved.get(name)
                    continue
                file.seek(place)
                row = json.loads(file.readline())
                values = np.frombuffer(base64.b64decode(row["embedding"]), "<f4")
                yield name, EmbeddedImage(bytes.fromhex(row["content"]), values)

    def _write_npy(self, names: list[str], path: Path, names_file: Path) -> None:
        shape = (len(names), self._stamp.embed_dim)
        with path.open("wb") as file, names_file.open("w", encoding="ascii") as lines:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f4", "fortran_order": False, "shape": shape}
            )
            lines.write(json.dumps(self._stamp.header()) + "\n")
            for name, image in self._images(names):
                values = image.embedding.astype("<f4").tobytes()
                file.write(values)
                row = {"file_name": name, "content": image.content.hex()}
                lines.write(json.dumps({**row, "crc32": zlib.crc32(values)}) + "\n")
            for written in (file, lines):
                written.flush()
                os.fsync(written.fileno())

    def _write_parquet(self, names: list[str], path: Path) -> None:
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
        with parquet.ParquetWriter(path, schema) as writer:
            while some := list(itertools.islice(images, _ROWS_TOGETHER)):
                columns = {
                    "file_name": [name for name, _ in some],
                    "content": [image.content.hex() for _, image in some],
                    "embedding": [image.embedding for _, image in some],
                }
                writer.write_table(pyarrow.table(columns, schema=schema))


def _parse(line: bytes) -> dict[str, Any] | None:
    """A whole line of the journal."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
