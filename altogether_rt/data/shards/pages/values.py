"""Values of a Parquet column of images, page by page, where a page may be hundreds of megabytes.

pyarrow decodes a page as a whole, and keeps what it read beside what it made of it: twice the size
of a row group that its writer put into one page, as pyarrow itself does up to 1,024 rows. Here a
large page is unpacked into a file, and its values are read one at a time. Formats: Apache Parquet,
`parquet.thrift`, "Encodings" and "Data Pages"; Thrift's compact protocol; Snappy's format.
"""

from __future__ import annotations

import io
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

from altogether_rt.data.shards.pages.snappy import unpack_snappy
from altogether_rt.data.shards.pages.thrift import parse_struct

__all__ = ["LARGE_BYTES", "can_read", "large_values"]

#: A column chunk of a row group from this size on is read here.
LARGE_BYTES: Final = 96 << 20
_SMALL_PAGE_BYTES: Final = 8 << 20
_CHUNK_BYTES: Final = 1 << 20
_MAX_HEADER_BYTES: Final = 1 << 18
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3  # PageType
_PLAIN, _PLAIN_DICTIONARY, _RLE_DICTIONARY = 0, 2, 8  # Encoding
_ENCODINGS: Final = {"PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}
_CODECS: Final = {"UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD"}


def can_read(chunk: Any, schema: Any) -> bool:
    """Whether `large_values` reads this column chunk: pyarrow's metadata and column schema."""
    return (
        chunk.physical_type == "BYTE_ARRAY"
        and chunk.compression in _CODECS
        and set(chunk.encodings) <= _ENCODINGS
        and schema.max_repetition_level == 0
    )


def large_values(path: str, chunk: Any, schema: Any) -> Iterator[bytes | None]:
    """The values of a column chunk in order; None for null. Raises ValueError, OSError."""
    with open(path, "rb") as file:
        reader = _Chunk(file, chunk, schema.max_definition_level)
        yield from reader.values()


class _Chunk:
    def __init__(self, file: BinaryIO, chunk: Any, max_level: int) -> None:
        self._file = file
        self._codec = chunk.compression
        self._left = chunk.num_values
        self._max_level = max_level
        starts = (chunk.data_page_offset, chunk.dictionary_page_offset)
        self._at = min(start for start in starts if start is not None and start > 0)
        self._end = self._at + chunk.total_compressed_size
        self._dictionary: _Dictionary | None = None

    def values(self) -> Iterator[bytes | None]:
        while self._left > 0:
            if self._at >= self._end:
                raise ValueError("a column ends before its values do")
            header, start = self._header()
            self._at = start + header[3]
            if header[1] == _DICTIONARY:
                page = self._unpacked(header, start, header[3], header[2])
                self._dictionary = _Dictionary(page, header[7][1])
            elif header[1] in (_DATA, _DATA_V2):
                yield from self._page(header, start)

    def _header(self) -> tuple[dict[int, Any], int]:
        """The header of the next page, and where its data begin."""
        self._file.seek(self._at)
        raw = self._file.read(_MAX_HEADER_BYTES)
        header, length = parse_struct(raw)
        sizes = header.get(2), header.get(3)
        if not all(isinstance(size, int) and size >= 0 for size in sizes) or 1 not in header:
            raise ValueError("a page has no header")
        return header, self._at + length

    def _page(self, header: dict[int, Any], start: int) -> Iterator[bytes | None]:
        is_v2 = header[1] == _DATA_V2
        about = header[8 if is_v2 else 5]
        num_values, encoding = about[1], about[4 if is_v2 else 2]
        self._left -= num_values
        levels = b""
        size, unpacked_size = header[3], header[2]
        if is_v2:
            length = about[5] + about[6]
            self._file.seek(start)
            levels = self._file.read(length)[about[6] :]
            start, size, unpacked_size = start + length, size - length, unpacked_size - length
        is_packed = about.get(7, True) if is_v2 else True
        page = self._unpacked(header, start, size, unpacked_size, is_packed=is_packed)
        if self._max_level > 0 and not is_v2:
            levels = page.read(int.from_bytes(page.read(4), "little"))
        width = self._max_level.bit_length()
        if levels:
            present = [level == self._max_level for level in _hybrid(levels, width, num_values)]
        else:
            present = [True] * num_values
        if encoding == _PLAIN:
            values = _plain_values(page)
        elif encoding in (_PLAIN_DICTIONARY, _RLE_DICTIONARY) and self._dictionary is not None:
            raw = page.read()
            indices = _hybrid(raw[1:], raw[0], sum(present)) if any(present) else []
            values = map(self._dictionary.value, indices)
        else:
            raise ValueError(f"a page has the encoding {encoding}")
        for is_present in present:
            yield next(values) if is_present else None

    def _unpacked(
        self,
        header: dict[int, Any],
        start: int,
        size: int,
        unpacked_size: int,
        *,
        is_packed: bool = True,
    ) -> BinaryIO:
        """The unpacked data of a page: in memory if they are small, else in a file."""
        target: BinaryIO = io.BytesIO()
        if unpacked_size > _SMALL_PAGE_BYTES or size > _SMALL_PAGE_BYTES:
            target = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as its page
        room = unpacked_size

        def write(data: bytes) -> None:
            nonlocal room
            room -= len(data)
            if room < 0:
                raise ValueError("a page is larger than it says")
            target.write(data)

        checksum = header.get(4)
        chunks = self._chunks(start, size, checksum if 8 not in header else None)
        codec = self._codec if is_packed else "UNCOMPRESSED"
        _unpack(codec, chunks, write)
        if room:
            raise ValueError("a page is smaller than it says")
        target.seek(0)
        return target

    def _chunks(self, start: int, size: int, checksum: int | None) -> Iterator[bytes]:
        """The data of a page as they are in the file. checksum: theirs, or None."""
        found = 0
        for at in range(start, start + size, _CHUNK_BYTES):
            self._file.seek(at)
            data = self._file.read(min(_CHUNK_BYTES, start + size - at))
            if not data:
                raise ValueError("the file is cut off within a page")
            if checksum is not None:
                found = zlib.crc32(data, found)
            yield data
        if checksum is not None and found != checksum & 0xFFFFFFFF:
            raise ValueError("a page has another checksum than it says")


class _Dictionary:
    """The values of a dictionary page, found by their offsets."""

    def __init__(self, page: BinaryIO, num_values: int) -> None:
        self._page = page
        self._offsets: list[tuple[int, int]] = []
        for _ in range(num_values):
            size = int.from_bytes(_exactly(page, 4), "little")
            self._offsets.append((page.tell(), size))
            page.seek(size, io.SEEK_CUR)

    def value(self, index: int) -> bytes:
        if index >= len(self._offsets):
            raise ValueError("a value is not in the dictionary")
        offset, size = self._offsets[index]
        self._page.seek(offset)
        return _exactly(self._page, size)


def _plain_values(page: BinaryIO) -> Iterator[bytes]:
    while True:
        yield _exactly(page, int.from_bytes(_exactly(page, 4), "little"))


def _exactly(page: BinaryIO, size: int) -> bytes:
    data = page.read(size)
    if len(data) < size:
        raise ValueError("a page ends within a value")
    return data


def _unpack(codec: str, chunks: Iterator[bytes], write: Callable[[bytes], None]) -> None:
    if codec == "UNCOMPRESSED":
        for chunk in chunks:
            write(chunk)
    elif codec == "SNAPPY":
        unpack_snappy(chunks, write)
    else:
        stream, errors = _stream(codec)
        try:
            for chunk in chunks:
                for at in range(0, len(chunk), 4096):  # little at once: it may become much
                    write(stream.decompress(chunk[at : at + 4096]))
        except errors as error:
            raise ValueError(f"a page is damaged: {error}") from error


def _stream(codec: str) -> tuple[Any, type[Exception]]:
    if codec == "GZIP":
        return zlib.decompressobj(47), zlib.error
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj(), zstandard.ZstdError


def _hybrid(raw: bytes, width: int, count: int) -> list[int]:
    """`count` integers of `width` bits, run-length encoded and bit-packed."""
    if width > 32:
        raise ValueError("a page has integers of more than 32 bits")
    found: list[int] = []
    at = 0
    mask = (1 << width) - 1
    while len(found) < count:
        head = shift = 0
        while True:
            if at >= len(raw):
                raise ValueError("a page ends within its levels")
            byte = raw[at]
            at += 1
            head |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if head & 1:
            groups = min(head >> 1, (count - len(found) + 7) // 8)
            bits = int.from_bytes(raw[at : at + groups * width], "little")
            found += [bits >> index * width & mask for index in range(groups * 8)]
            at += (head >> 1) * width
        else:
            num_bytes = (width + 7) // 8
            value = int.from_bytes(raw[at : at + num_bytes], "little")
            found += [value] * min(head >> 1, count - len(found))
            at += num_bytes
    return found[:count]
