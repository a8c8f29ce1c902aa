"""Output of all commands: results to stdout; progress, notes and errors to stderr.

Three modes: human (tables and sentences), `--json` (one JSON line on stdout) and
`--quiet` (errors only). What only tables or progress need is imported with them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from altogether_rt.monitoring.base import Level, Observer, Observers
from altogether_rt.monitoring.display import ProgressMode, open_display
from altogether_rt.monitoring.text import format_duration, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from altogether_rt.monitoring.monitor import RunMonitor

    Human = Table | str | list[str]

__all__ = ["Output", "format_bytes", "format_duration", "json_line", "printable"]


def json_line(data: Mapping[str, Any]) -> str:
    """`data` as one line of JSON that stdout can hold, and that does nothing to a terminal."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    text = json.dumps(data, ensure_ascii=False)
    # Any character outside ASCII can stand as an escape instead, with the same value.
    unsafe = encoding not in ("utf-8", "utf8") or printable(text) != text
    return json.dumps(data) if unsafe else text


class Output:
    """Output of one command. as_json: no human output. quiet: errors only."""

    def __init__(
        self,
        *,
        as_json: bool = False,
        quiet: bool = False,
        progress: ProgressMode = ProgressMode.AUTO,
    ) -> None:
        """progress: how it is shown; asked for expressly, it is shown with `quiet` too."""
        self.as_json = as_json
        self.quiet = quiet
        self._observers = Observers([open_display(progress, sys.stderr, quiet=quiet)])

    def observe(self, observer: Observer) -> None:
        """Tell a log, too, of everything that happens."""
        self._observers.add(observer)

    def result(self, data: Mapping[str, Any], human: Human | None = None) -> None:
        """Print the result: `data` as one JSON line with --json, otherwise `human` if given."""
        self.event("info", "result", "the result", data=data)
        if self.as_json:
            print(json_line(data))
        elif human is not None:
            self.show(human)

    def show(self, human: Human) -> None:
        """Print something for people to stdout; nothing with --json or --quiet.

        A text is one line, or several in a list: what would end a line is shown as an escape.
        """
        if self.as_json or self.quiet:
            return
        lines = [human] if isinstance(human, str) else human
        if isinstance(lines, list):
            for line in lines:
                print(printable(line))
        else:
            self._show_table(lines)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
        """A table for `result` or `show`: first column aligned left, the others right."""
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=Text(printable(title)) if title else None,
            title_justify="left",
            title_style="bold",
        )
        for index, column in enumerate(columns):
            table.add_column(Text(printable(column)), justify="right" if index else "left")
        for row in rows:  # Text: brackets in a name are not markup
            table.add_row(*(Text(printable(str(cell))) for cell in row))
        return table

    def _show_table(self, table: Table) -> None:
        """Print a table; row by row where the terminal is so narrow that words would be cut."""
        from rich.measure import Measurement

        console = self._console()
        unbounded = console.options.update(max_width=1_000_000)
        if Measurement.get(console, unbounded, table).minimum <= console.width:
            console.print(table)
            return
        if table.title is not None:
            print(table.title)
        headers = [str(column.header) for column in table.columns]
        for first, *others in zip(*(column.cells for column in table.columns), strict=True):
            print(first)
            for header, cell in zip(headers[1:], others, strict=True):
                if str(cell):
                    print(f"  {header}: {cell}")

    def event(self, level: Level, name: str, message: str, **fields: Any) -> None:
        """Something for the log alone. Notes and errors are logged as they are printed."""
        self._observers.event(level, name, message, **fields)

    def note(self, message: str) -> None:
        """Print a sentence about progress to stderr; nothing with --quiet."""
        self._observers.event("info", "note", message)

    def error(self, message: str) -> None:
        """Print an error to stderr, always."""
        self._observers.event("error", "error", message)

    @contextmanager
    def progress(
        self, total: int | None, unit: str, observers: Sequence[Observer] = ()
    ) -> Iterator[RunMonitor]:
        """Show progress in `unit` ("images"), rate and time left on stderr, unless --quiet.

        observers: of this work alone, besides stderr and the log.
        """
        from altogether_rt.monitoring.monitor import RunMonitor

        with RunMonitor(unit, self._observers.joined_by(observers), total=total) as monitor:
            yield monitor

    def _console(self) -> Console:
        from rich.console import Console

        # In a pipe or a file, tables are not cut at 80 columns.
        stdout: TextIO | None = sys.stdout  # None where the program was started with it closed
        on_terminal = stdout is not None and stdout.isatty()
        return Console(width=None if on_terminal else 160, highlight=False)


def format_bytes(count: float) -> str:
    """`1.5 MB`: decimal units, at most three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
