"""Embeddings of images in a file, computed once and captioned from any number of times.

`FILE.npy` holds them, float32 (rows, embed_dim), and `FILE.names.jsonl` describes them: first a
line about the encoder, then one line for each row with the file's name, the content hash of its
pixels (from which sampled captions derive their seed) and a checksum of the embedding, which shows
that the two files belong together. `FILE.parquet` holds all of this in the columns file_name,
content and embedding.

An embedding is found by its file's name, and is of the image that the file held when it was saved.
"""

from __future__ import annotations

import json
import re
import threading
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from altogether_rt.artifacts.arrays import map_npy
from altogether_rt.captions import EmbeddedImage
from altogether_rt.data.parquet_files import (
    check_row_groups,
    import_parquet,
    open_parquet,
    parquet_errors,
)
from altogether_rt.errors import AltogetherError, ImageError, reason

__all__ = ["EncoderStamp", "SavedEmbeddings", "import_parquet", "names_path", "read_stamp"]

_FORMAT: Final = "altogether-rt embeddings 1"
_MAX_LINE_BYTES: Final = 1 << 20
_CONTENT: Final = re.compile("[0-9a-f]{32}")
_MAX_NAME_BYTES: Final = 4096  # of a path on Linux
_MAX_CACHED_GROUPS: Final = 2  # row groups of a parquet file


@dataclass(frozen=True)
class EncoderStamp:
    """What an embedding was made by; a captioner cannot use those of another encoder."""

    encoder: str  # `BundleManifest.encoder_id`: graph, weights, resize mode and the like
    embed_dim: int
    decoding: str = "exact"  # how pixels were made from files: `exact` or `fast`

    def header(self) -> dict[str, Any]:
        """The first line of a file of names, as a JSON object."""
        return {"format": _FORMAT, **asdict(self)}

    def check(self, header: Any, path: Path) -> None:
        """Raises AltogetherError unless `header` is that of embeddings with this stamp."""
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise AltogetherError(
                f"{path} does not hold embeddings saved by --save-embeddings: give one that does."
            )
        if header != self.header():
            theirs = f"{header.get('encoder')} ({header.get('embed_dim')} wide)"
            if header.get("decoding") != self.decoding:
                theirs += f", images decoded {header.get('decoding')}"
            raise AltogetherError(
                f"{path} holds embeddings of encoder {theirs:.200}, and this bundle's is "
                f"{self.encoder} ({self.embed_dim} wide, {self.decoding}): save them again with it."
            )


class _Table(Protocol):
    """The rows of a file: their names, and the image of each."""

    def names(self) -> Iterator[str]: ...
    def row(self, index: int) -> EmbeddedImage: ...


class SavedEmbeddings:
    """Embeddings by file name; several threads may read them."""

    def __init__(self, path: Path, stamp: EncoderStamp) -> None:
        """Raises AltogetherError if the file cannot be used, or was made by another encoder."""
        self.path = path
        self.stamp = stamp
        self._table: _Table
        if path.suffix == ".npy":
            self._table = _NpyTable(path, stamp)
        elif path.suffix == ".parquet":
            self._table = _ParquetTable(path, stamp)
        else:
            raise AltogetherError(f"{path} is neither a .npy nor a .parquet file: name one.")
        self._rows = {name: index for index, name in enumerate(self._table.names())}

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def names(self) -> Iterator[str]:
        return iter(self._rows)

    def get(self, name: str) -> EmbeddedImage:
        """The embedding of a file.

        Raises ImageError of kind no_embedding or bad_embedding if there is no usable one.
        """
        row = self._rows.get(name)
        if row is None:
            raise ImageError("no_embedding", f"{name} has no embedding in {self.path.name}.")
        image = self._table.row(row)
        if image.embedding.shape != (self.stamp.embed_dim,):
            raise ImageError("bad_embedding", f"The embedding of {name} has the wrong width.")
        if not np.isfinite(image.embedding).all():
            raise ImageError("bad_embedding", f"The embedding of {name} is not finite.")
        return image


def names_path(path: Path) -> Path:
    """The file of names that belongs to a .npy file."""
    return path.with_suffix(".names.jsonl")


def read_stamp(path: Path) -> EncoderStamp:
    """What made the embeddings in a file, as the file says.

    Raises AltogetherError if it does not hold embeddings saved by `--save-embeddings`.
    """
    header: Any = None
    try:
        if path.suffix == ".parquet":
            metadata = import_parquet().read_schema(path).metadata or {}
            header = _parse(metadata.get(b"altogether-rt", b""))
        else:
            with names_path(path).open("rb") as file:
                header = _parse(file.readline(_MAX_LINE_BYTES))
    except OSError as error:
        raise AltogetherError(
            f"{error.filename or path} cannot be read: {reason(error)}."
        ) from error
    except ValueError:  # not a parquet file: said below
        pass
    try:
        encoder, embed_dim, decoding = (header[k] for k in ("encoder", "embed_dim", "decoding"))
        if not all(isinstance(text, str) and len(text) <= 64 for text in (encoder, decoding)):
            raise ValueError
        stamp = EncoderStamp(encoder, int(embed_dim), decoding)
    except (TypeError, KeyError, ValueError):
        stamp = EncoderStamp("", 0)
    stamp.check(header, path)
    return stamp


class _NpyTable:
    def __init__(self, path: Path, stamp: EncoderStamp) -> None:
        self._path = path
        names = names_path(path)
        if path.is_file() and not names.exists():
            raise AltogetherError(
                f"{path} has no {names.name} beside it, which says whose embeddings they are: "
                "give a file that --save-embeddings wrote."
            )
        try:
            with names.open("rb") as file:
                stamp.check(_parse(file.readline(_MAX_LINE_BYTES)), path)
                self._rows = [_name_row(line, names) for line in file]
            # Mapped into memory: nothing is unpickled, and a file shorter than its header fails.
            array = map_npy(path)
        except OSError as error:
            raise AltogetherError(f"{error.filename or path}: {error.strerror}.") from error
        except (ValueError, OverflowError) as error:
            raise AltogetherError(
                f"{path} is not a .npy file ({reason(error)}): save the embeddings again."
            ) from error
        if array.dtype != np.float32 or array.shape != (len(self._rows), stamp.embed_dim):
            raise AltogetherError(
                f"{path} holds {array.dtype} {array.shape}, and {names.name} names "
                f"{len(self._rows)} float32 rows of {stamp.embed_dim}: save the embeddings again."
            )
        self._array: NDArray[np.float32] = array

    def names(self) -> Iterator[str]:
        return (name for name, _, _ in self._rows)

    def row(self, index: int) -> EmbeddedImage:
        name, content, checksum = self._rows[index]
        embedding = np.array(self._array[index], np.float32)
        if zlib.crc32(embedding.tobytes()) != checksum:
            raise ImageError("bad_embedding", f"The embedding of {name} is not the one saved.")
        return EmbeddedImage(content, embedding)


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _name_row(line: bytes, path: Path) -> tuple[str, bytes, int]:
    row = _parse(line) if len(line) < _MAX_LINE_BYTES else None
    if isinstance(row, dict):
        name, content, checksum = (row.get(key) for key in ("file_name", "content", "crc32"))
        if (
            isinstance(name, str)
            and isinstance(content, str)
            and _CONTENT.fullmatch(content)
            and isinstance(checksum, int)
        ):
            return name, bytes.fromhex(content), checksum
    raise AltogetherError(f"{path} has a line that is not a row's name: save the embeddings again.")


class _ParquetTable:
    """Reads row groups on demand; names are in the order of a folder's images."""

    def __init__(self, path: Path, stamp: EncoderStamp) -> None:
        self._lock = threading.Lock()
        self._groups: dict[int, Any] = {}
        self._names: list[str] = []
        self._starts = [0]
        import_parquet()
        try:
            schema = import_parquet().read_schema(path)
            stamp.check(_parse((schema.metadata or {}).get(b"altogether-rt", b"")), path)
            _check_schema(schema, path)
            self._file = open_parquet(path, ["file_name", "content"])
            check_row_groups(path, schema.names)
            for group in range(self._file.num_row_groups):
                self._names += _names_of(self._file, group)
                self._starts.append(len(self._names))
        except OSError as error:
            raise AltogetherError(f"{path} cannot be read: {reason(error)}.") from error
        except parquet_errors() as error:
            raise AltogetherError(f"{path} is not a parquet file ({reason(error)}).") from error

    def names(self) -> Iterator[str]:
        return iter(self._names)

    def row(self, index: int) -> EmbeddedImage:
        try:
            content, values = self._read(index)
        except parquet_errors() as error:
            message = f"The row of {self._names[index]} cannot be read: {reason(error)}."
            raise ImageError("bad_embedding", message) from error
        if content is None or values is None or not _CONTENT.fullmatch(content):
            raise ImageError("bad_embedding", f"The row of {self._names[index]} is incomplete.")
        return EmbeddedImage(bytes.fromhex(content), np.array(values, np.float32))

    def _read(self, index: int) -> tuple[str | None, list[float] | None]:
        with self._lock:
            group = int(np.searchsorted(self._starts, index, side="right")) - 1
            if group not in self._groups:
                if len(self._groups) == _MAX_CACHED_GROUPS:
                    del self._groups[min(self._groups)]
                self._groups[group] = self._file.read_row_group(group)
            row = self._groups[group].slice(index - self._starts[group], 1)
        return row["content"][0].as_py(), row["embedding"][0].as_py()


def _names_of(file: Any, group: int) -> list[str]:
    """The file names of a row group. Raises ValueError for one that no file can have."""
    import pyarrow.compute as compute

    column = file.read_row_group(group, columns=["file_name"])["file_name"]
    for chunk in column.chunks:
        longest = compute.max(compute.binary_length(chunk.dictionary)).as_py()
        if chunk.null_count or (longest or 0) > _MAX_NAME_BYTES:
            raise ValueError("a file name is missing or too long")
    names: list[str] = column.to_pylist()
    return names


def _check_schema(schema: Any, path: Path) -> None:
    wanted = {"file_name": "string", "content": "string", "embedding": "list<element: float>"}
    found = {name: str(schema.field(name).type) for name in schema.names}
    found = {name: re.sub("list<[a-z]+:", "list<element:", kind) for name, kind in found.items()}
    if found != wanted:
        raise AltogetherError(
            f"{path} has columns {found}, not {wanted}: save the embeddings again."
        )
