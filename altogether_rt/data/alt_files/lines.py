"""Lines of a text file, whatever its compression, encoding and line ends are."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, cast

from altogether_rt.data.problems import Problems, counted
from altogether_rt.errors import AltogetherError, MissingDependencyError

__all__ = [
    "BLANKS",
    "FileNotes",
    "head_of",
    "open_plain",
    "plain_suffix",
    "text_encoding",
    "text_lines",
]

#: A line of nothing else is blank. (U+2028 is no blank: it is part of a text.)
BLANKS: Final = " \t\r\n\x0b\x0c"
#: Maximum bytes of one line.
_MAX_LINE_BYTES: Final = 64 * 1024 * 1024
_BUFFER_BYTES: Final = 1 << 18

_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as the next one does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: Bytes that Windows-1252 does not have, and two of letters so rare that they tell of other data.
_NOT_WINDOWS_1252: Final = re.compile(rb"[\x81\x8d\x8f\x90\x9d\xfe\xff]")
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


@dataclass
class FileNotes:
    """What a reader has found out about a file besides its records."""

    columns: dict[str, None] = field(default_factory=dict)  # names in the order in which they came
    windows_1252: Problems = field(default_factory=Problems)  # lines that were read as such
    joined: Problems = field(default_factory=Problems)  # texts with unquoted delimiters
    num_records: int = 0
    num_header_lines: int = 0
    num_continued: int = 0  # lines, blank ones aside, that continue the record before them

    def sentences(self, path: Path) -> list[str]:
        """What the user should know, a sentence each."""
        found = []
        if self.windows_1252:
            lines = counted(
                self.windows_1252.count,
                f"line of {path} is not UTF-8 and was",
                f"lines of {path} are not UTF-8 and were",
            )
            found.append(
                f"{lines} read as Windows-1252 ({self.windows_1252}): save the file as UTF-8 if "
                "texts look wrong."
            )
        if self.joined:
            lines = counted(self.joined.count, f"line of {path} has", f"lines of {path} have")
            found.append(
                f"{lines} more cells than the header: the last column's text was read to the end "
                f"of the line ({self.joined})."
            )
        return found


def plain_suffix(path: Path) -> str:
    """The suffix that names the format, in lower case, without that of a compression."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in (".gz", ".zst") else suffix


@contextmanager
def open_plain(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, buffered and decompressed: gzip, Zstandard by their first bytes.

    Raises OSError if the file cannot be read; while the block runs, AltogetherError if compressed
    data end too early or are damaged, and MissingDependencyError without the package `zstandard`.
    """
    damaged: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
    with path.open("rb", buffering=_BUFFER_BYTES) as file:
        head = head_of(file, 4)
        plain: Any = file
        if head.startswith(b"\x1f\x8b"):
            plain = io.BufferedReader(cast(Any, gzip.GzipFile(fileobj=file)), _BUFFER_BYTES)
        elif head.startswith(b"\x28\xb5\x2f\xfd"):
            zstandard = _import_zstandard(path)
            damaged = (*damaged, zstandard.ZstdError)
            reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
                file, read_across_frames=True
            )
            plain = io.BufferedReader(reader, _BUFFER_BYTES)
        try:
            yield plain
        except damaged as error:
            raise AltogetherError(
                f"{path} is cut off or damaged ({error}): fetch or compress it again."
            ) from error


def _import_zstandard(path: Path) -> Any:
    try:
        import zstandard
    except ImportError as error:
        purpose = f"reading {path} (or unpack it first)"
        raise MissingDependencyError("zstandard", "zstd", purpose) from error
    return zstandard


def head_of(file: IO[bytes], size: int = 1 << 16) -> bytes:
    """The first bytes that `file` will give, at least one unless it is at its end."""
    return cast(io.BufferedReader, file).peek(size)[:size]


def text_encoding(head: bytes) -> str:
    """The encoding of a text that begins with `head`: by its mark or, without, by its zeros."""
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    head = head[: len(head) // 2 * 2]
    if len(head) >= 4:
        even, odd = head[0::2].count(0), head[1::2].count(0)
        if odd > 0.4 * len(head) / 2 and not even:
            return "utf-16-le"
        if even > 0.4 * len(head) / 2 and not odd:
            return "utf-16-be"
    return "utf-8"


def text_lines(
    file: BinaryIO, problems: Problems, notes: FileNotes, *, keep_blank: bool = False
) -> Iterator[tuple[int, str]]:
    """Lines with their ends, numbered from 1; blank ones count but are left out.

    Only LF, or CR in a file that has no LF, ends a line; U+2028 is part of a text. A line that is
    not UTF-8 is read as Windows-1252 and noted, if it can be that. Lines that are too long are
    skipped without being kept in memory; they and lines of no known encoding go to `problems`.
    """
    head = head_of(file)
    encoding = text_encoding(head)
    if not encoding.startswith("utf-8"):
        yield from _wide_lines(file, encoding, problems, keep_blank)
        return
    if b"\r" in head and b"\n" not in head:
        file = cast(BinaryIO, io.BufferedReader(cast(Any, _LineFeeds(file)), _BUFFER_BYTES))
    number = 0
    while line := file.readline(_MAX_LINE_BYTES):
        number += 1
        if len(line) == _MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(_MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            problems.add(f"line {number}: longer than {_MAX_LINE_BYTES:,} bytes")
        elif keep_blank or line.strip():
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
                if not line.strip() and not keep_blank:
                    continue
            text = _decode(line, number, problems, notes)
            if text is not None:
                yield number, text


def _decode(line: bytes, number: int, problems: Problems, notes: FileNotes) -> str | None:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        pass
    # Some UTF-8 in the line means that it is UTF-8 with a fault.
    other = line.decode("utf-8", "ignore").isascii() and not _NOT_WINDOWS_1252.search(line)
    if not other:
        problems.add(f"line {number}: not UTF-8")
        return None
    notes.windows_1252.add(f"line {number}")
    return line.decode("cp1252")


def _mark_error(error: UnicodeError) -> tuple[str, int]:
    """Puts a lone surrogate, which no valid text has, where decoding failed."""
    assert isinstance(error, UnicodeDecodeError)
    return "\udc80", error.end


codecs.register_error("altogether_rt.mark", _mark_error)


def _wide_lines(
    file: BinaryIO, encoding: str, problems: Problems, keep_blank: bool
) -> Iterator[tuple[int, str]]:
    """Lines of a text in UTF-16 or UTF-32."""
    text = io.TextIOWrapper(file, encoding, errors="altogether_rt.mark", newline="\n")
    limit = _MAX_LINE_BYTES // 4
    number = 0
    while line := text.readline(limit):
        number += 1
        if len(line) == limit and not line.endswith("\n"):
            while (rest := text.readline(limit)) and not rest.endswith("\n"):
                pass
            problems.add(f"line {number}: longer than {limit:,} characters")
        elif _SURROGATES.search(line):
            problems.add(f"line {number}: not {encoding[:6].upper()}")
        elif keep_blank or line.strip(BLANKS):
            yield number, line
    text.detach()


class _LineFeeds(io.RawIOBase):
    """Bytes of a file with CR replaced by LF."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer)).replace(b"\r", b"\n")
        buffer[: len(data)] = data
        return len(data)
