"""Text from outside, made safe for a terminal and for a file of lines."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from typing import Final, TextIO

__all__ = ["format_duration", "format_rate", "print_traceback", "printable"]

#: Characters that end a line, move the cursor, start an escape sequence or reverse what is written.
_UNSAFE: Final = (
    *range(0x20),  # C0
    *range(0x7F, 0xA0),  # DEL and C1
    0x2028, 0x2029,  # separators of lines and paragraphs
    *range(0x202A, 0x202F),  # embeddings and overrides of direction
    *range(0x2066, 0x206A),  # isolates
)  # fmt: skip


def _escape(code: int) -> str:
    return chr(code).encode("unicode_escape").decode("ascii")


_ESCAPES: Final = {
    **{code: _escape(code) for code in _UNSAFE},
    # Bytes of a file name that is not UTF-8 are shown as such; other lone surrogates by their code.
    **{0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)},
    **{code: f"\\u{code:04x}" for code in (*range(0xD800, 0xDC80), *range(0xDD00, 0xE000))},
}


def printable(text: str) -> str:
    """`text` as one line that does nothing to a terminal.

    A file name or an alt-text must not be able to add a line, move the cursor or turn the text
    around: control characters and those of direction are shown as `\\n`, `\\x1b`, `\\u202e`.
    """
    return text.translate(_ESCAPES)


def print_traceback(error: BaseException, stream: TextIO | None = None) -> None:
    """Print a traceback whose messages cannot do anything to a terminal."""
    for line in _safe_traceback(error):
        print(line, file=stream or sys.stderr)


def _safe_traceback(error: BaseException) -> Iterator[str]:
    """The lines of a traceback. Frames and headings span lines of their own; a message does not."""
    for part in traceback.TracebackException.from_exception(error).format():
        if part.startswith((" ", "\n", "Traceback ")):
            yield from (printable(line) for line in part.rstrip("\n").split("\n"))
        else:
            yield printable(part.rstrip("\n"))


def format_duration(seconds: float) -> str:
    """`01:05` or `2:01:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def format_rate(rate: float) -> str:
    """`45.2/s`, or `0.037/s` where a run does less than one a second."""
    return f"{rate:.1f}/s" if rate >= 1 or rate == 0 else f"{rate:.2g}/s"
