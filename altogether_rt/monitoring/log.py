"""A log of what happened in a run, as lines of text or of JSON, added to a file."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Final

from altogether_rt.artifacts.files import append_to
from altogether_rt.errors import AltogetherError
from altogether_rt.monitoring.base import Level, Observer, timestamp
from altogether_rt.monitoring.text import printable

__all__ = ["EventLog"]

#: How lines of a log begin: a file that begins otherwise is somebody else's.
_OWN_LINE: Final = re.compile(rb'(\{"time": ")?\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d')


class EventLog(Observer):
    """Adds each event to a file, with one write, so that several runs may share it.

    As text: `2026-11-26T12:00:00.123Z WARNING restart: worker 1 ended …`, fields as `name=value`
    with values in JSON. As JSON: `{"time": …, "level": …, "event": …, "message": …, "pid": …, …}`.
    """

    def __init__(self, path: Path, *, as_json: bool = False) -> None:
        """Raises AltogetherError if it is not a log, a symbolic link or no regular file."""
        self._as_json = as_json
        self._file = append_to(path)
        head = os.pread(self._file.fileno(), 64, 0)
        if head and not _OWN_LINE.match(head):
            self._file.close()
            raise AltogetherError(f"{path} is not a log of this program: name another --log-file.")

    def event(self, level: Level, name: str, message: str, fields: dict[str, Any]) -> None:
        own = {"pid": os.getpid(), **fields}
        if self._as_json:
            what = {"time": timestamp(), "level": level, "event": name, "message": message}
            line = json.dumps({**what, **own}, default=str)
        else:
            values = (f"{key}={json.dumps(value, default=str)}" for key, value in own.items())
            line = f"{timestamp()} {level.upper()} {name}: {message}  {' '.join(values)}"
        self._file.write(printable(line).encode("ascii", "backslashreplace") + b"\n")

    def close(self) -> None:
        self._file.close()
