"""stderr: notes, errors, and progress as a line that is redrawn, as lines of a log or of JSON."""

from __future__ import annotations

import json
import shutil
from enum import StrEnum
from typing import IO, Any

from altogether_rt.monitoring.base import Level, Observer, timestamp
from altogether_rt.monitoring.state import RunState
from altogether_rt.monitoring.text import format_duration, format_rate, printable

__all__ = [
    "Display",
    "JsonLines",
    "PlainLines",
    "ProgressMode",
    "TerminalLine",
    "json_event",
    "open_display",
    "progress_line",
]

#: Events that people are told of; the others are for the log.
_SHOWN_EVENTS = frozenset({"error", "note", "restart"})


class ProgressMode(StrEnum):
    """How progress is shown."""

    AUTO = "auto"  # a line that is redrawn on a terminal, otherwise as PLAIN
    JSON = "json"
    PLAIN = "plain"
    NONE = "none"


def open_display(mode: ProgressMode, stream: IO[str] | None, *, quiet: bool = False) -> Observer:
    """What writes to `stream`, None where it is closed. quiet: errors, and progress if asked."""
    if stream is None:
        return Observer()
    if mode is ProgressMode.JSON:
        return JsonLines(stream, quiet=quiet)
    if mode is ProgressMode.NONE or (quiet and mode is ProgressMode.AUTO):
        return Display(stream, quiet=quiet)
    if mode is ProgressMode.AUTO and stream.isatty():
        return TerminalLine(stream, quiet=quiet)
    return PlainLines(stream, quiet=quiet)


def progress_line(state: RunState) -> str:
    """`312/1000 images  45.2/s  00:15 left  3 failed  <note>`"""
    of_total = "" if state.total is None else f"/{state.total}"
    parts = [f"{state.done}{of_total} {state.unit}", format_rate(state.rate)]
    if state.seconds_left is not None:
        parts.append(f"{format_duration(state.seconds_left)} left")
    if state.errors:
        parts.append(f"{state.errors.total()} failed")
    if state.note:
        parts.append(state.note)
    return printable("  ".join(parts))


def json_event(event: str, fields: dict[str, Any]) -> str:
    """One line of JSON: the time, what it is about, and its fields. It is ASCII."""
    return json.dumps({"time": timestamp(), "event": event, **fields}, allow_nan=False)


class Display(Observer):
    """Notes and errors alone."""

    def __init__(self, stream: IO[str], *, quiet: bool = False) -> None:
        """quiet: no notes."""
        self._stream = stream
        self._quiet = quiet

    def event(self, level: Level, name: str, message: str, fields: dict[str, Any]) -> None:
        if name not in _SHOWN_EVENTS or (self._quiet and name != "error"):
            return
        self._clear()
        self._tell(level, name, message)

    def _tell(self, level: Level, name: str, message: str) -> None:
        prefix = "altogether-rt: " if name == "error" else ""
        print(prefix + printable(message), file=self._stream, flush=True)

    def _clear(self) -> None:
        """Make what is printed next start on an empty line."""


class TerminalLine(Display):
    """One line of a terminal, redrawn five times a second and cleared at the end."""

    interval_s = 0.2
    _width = 0

    def update(self, state: RunState) -> None:
        line = progress_line(state)[: shutil.get_terminal_size().columns - 1]
        print("\r" + line.ljust(self._width), end="", file=self._stream, flush=True)
        self._width = len(line)

    def finish(self, state: RunState) -> None:
        self._clear()

    def _clear(self) -> None:
        if self._width:
            print("\r" + " " * self._width + "\r", end="", file=self._stream, flush=True)
            self._width = 0


class PlainLines(Display):
    """A line every 30 seconds, for logs of jobs that have no terminal."""

    interval_s = 30.0

    def update(self, state: RunState) -> None:
        print(progress_line(state), file=self._stream, flush=True)


class JsonLines(Display):
    """Lines of JSON: progress at the start, every second and at the end; notes and errors."""

    interval_s = 1.0

    def start(self, state: RunState) -> None:
        self.update(state)

    def update(self, state: RunState) -> None:
        print(json_event("progress", state.figures()), file=self._stream, flush=True)

    def finish(self, state: RunState) -> None:
        self.update(state)

    def _tell(self, level: Level, name: str, message: str) -> None:
        print(json_event(name, {"message": message}), file=self._stream, flush=True)
