"""Output of all commands: results to stdout; progress, notes and errors to stderr.

Three modes: human (tables and sentences), `--json` (one JSON line on stdout) and
`--quiet` (errors only). rich is imported only when it is needed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["Output", "Progress", "format_bytes", "format_duration", "json_line", "printable"]

#: Seconds between progress lines if stderr is not a terminal.
LOG_INTERVAL_S = 15.0
#: Seconds between updates of the progress line on a terminal.
TERMINAL_INTERVAL_S = 0.2

_CONTROLS = {
    code: "\N{REPLACEMENT CHARACTER}"
    for code in (*range(0x20), *range(0x7F, 0xA0))
    if chr(code) not in "\n\t"
}


def json_line(data: Mapping[str, Any]) -> str:
    """`data` as one line of JSON that stdout can hold, whatever its encoding."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    return json.dumps(data, ensure_ascii=encoding not in ("utf-8", "utf8"))


class Output:
    """Output of one command. as_json: no human output. quiet: errors only."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet

    def result(self, data: Mapping[str, Any], human: Table | str | None = None) -> None:
        """Print the result: `data` as one JSON line with --json, otherwise `human` if given."""
        if self.as_json:
            print(json_line(data))
        elif human is not None:
            self.show(human)

    def show(self, human: Table | str) -> None:
        """Print something for people to stdout; nothing with --json or --quiet."""
        if self.as_json or self.quiet:
            return
        if isinstance(human, str):
            print(printable(human))
        else:
            self._console().print(human)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
        """A table for `result` or `show`: first column aligned left, the others right."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title or None, title_justify="left", title_style="bold")
        for index, column in enumerate(columns):
            table.add_column(column, justify="right" if index else "left")
        for row in rows:  # Text: brackets in a name are not markup
            table.add_row(*(Text(printable(str(cell))) for cell in row))
        return table

    def note(self, message: str) -> None:
        """Print a sentence about progress to stderr; nothing with --quiet."""
        if not self.quiet:
            print(printable(message), file=sys.stderr)

    def error(self, message: str) -> None:
        """Print an error to stderr, always."""
        print(f"altogether-rt: {printable(message)}", file=sys.stderr)

    @contextmanager
    def progress(self, total: int | None, unit: str) -> Iterator[Progress]:
        """Show progress in `unit` ("images"), rate and time left on stderr; not with --quiet."""
        progress = Progress(total, unit, None if self.quiet else sys.stderr)
        try:
            yield progress
        finally:
            progress.close()

    def _console(self) -> Console:
        from rich.console import Console

        # In a pipe or a file, tables are not cut at 80 columns.
        stdout: TextIO | None = sys.stdout  # None where the program was started with it closed
        on_terminal = stdout is not None and stdout.isatty()
        return Console(width=None if on_terminal else 160, highlight=False)


class Progress:
    """`312/1000 images  45.2/s  00:15 left  <note>`: one updated line, or lines of a log."""

    def __init__(self, total: int | None, unit: str, stream: IO[str] | None) -> None:
        self.total = total
        self.unit = unit
        self.done = 0
        self.note = ""
        self._stream = stream
        self._on_terminal = stream is not None and stream.isatty()
        self._interval_s = TERMINAL_INTERVAL_S if self._on_terminal else LOG_INTERVAL_S
        self._start = self._last = time.monotonic()
        self._width = 0

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count `count` more as done; note: shown until the next one (a loss, a sample)."""
        self.done += count
        self.note = self.note if note is None else note
        now = time.monotonic()
        if now - self._last >= self._interval_s:
            self._last = now
            self._draw()

    def line(self) -> str:
        """The progress line as it is now."""
        elapsed_s = time.monotonic() - self._start
        rate = self.done / elapsed_s if elapsed_s > 0 else 0.0
        of_total = "" if self.total is None else f"/{self.total}"
        parts = [f"{self.done}{of_total} {self.unit}", f"{rate:.1f}/s"]
        if self.total is not None and rate > 0:
            parts.append(f"{format_duration(max(0, self.total - self.done) / rate)} left")
        if self.note:
            parts.append(self.note)
        return printable("  ".join(parts))

    def close(self) -> None:
        """Clear the line, so that what follows starts on an empty one."""
        if self._on_terminal and self._width and self._stream is not None:
            print("\r" + " " * self._width + "\r", end="", file=self._stream, flush=True)
            self._width = 0

    def _draw(self) -> None:
        if self._stream is None:
            return
        if not self._on_terminal:
            print(self.line(), file=self._stream, flush=True)
            return
        import shutil

        line = self.line()[: shutil.get_terminal_size().columns - 1]
        print("\r" + line.ljust(self._width), end="", file=self._stream, flush=True)
        self._width = len(line)


def printable(text: str) -> str:
    """`text` without control characters other than newline and tab.

    A file name must not be able to move the cursor or recolour the terminal. Lone surrogates, from
    undecodable names, become `?`.
    """
    return text.translate(_CONTROLS).encode("utf-8", "replace").decode("utf-8")


def format_bytes(count: float) -> str:
    """`1.5 MB`: decimal units, at most three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def format_duration(seconds: float) -> str:
    """`01:05` or `2:01:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
