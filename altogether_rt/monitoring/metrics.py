"""Counts of a run in a file, for Prometheus' node exporter (its textfile collector) or anyone.

The format is Prometheus' text exposition format, version 0.0.4. The file is replaced whole every
few seconds and stays when the run is over: `altogether_rt_running` and
`altogether_rt_last_update_timestamp_seconds` say whether it lives.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from altogether_rt.artifacts.files import write_whole
from altogether_rt.errors import AltogetherError
from altogether_rt.monitoring.base import Observer
from altogether_rt.monitoring.state import RunState

__all__ = ["MetricsFile", "metrics_text"]

_FIRST_LINE: Final = "# HELP altogether_rt_"


class MetricsFile(Observer):
    """Writes the state of a run to a file."""

    interval_s = 5.0

    def __init__(self, path: Path) -> None:
        """Raises AltogetherError if it is a symbolic link, a device or not a file of metrics."""
        self._path = path
        if path.is_symlink():
            raise AltogetherError(f"{path} is a symbolic link and is not replaced: name another.")
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(len(_FIRST_LINE))
            if head and head != _FIRST_LINE.encode():
                raise AltogetherError(
                    f"{path} is not a file of metrics of this program: name another --metrics-file."
                )
        self._start_s = time.time()
        self._write(RunState("images"), running=True)  # now, while the user can be told

    def start(self, state: RunState) -> None:
        self._start_s = time.time()
        self._write(state, running=True)

    def update(self, state: RunState) -> None:
        self._write(state, running=True)

    def finish(self, state: RunState) -> None:
        self._write(state, running=False)

    def _write(self, state: RunState, *, running: bool) -> None:
        text = metrics_text(state, start_s=self._start_s, now_s=time.time(), running=running)
        write_whole(self._path, text, sync=False)


def metrics_text(state: RunState, *, start_s: float, now_s: float, running: bool) -> str:
    """The state in the exposition format. start_s, now_s: seconds since 1970, UTC."""
    lines = []
    for name, kind, help_text, samples in _metrics(state, start_s, now_s, running):
        lines += [f"# HELP altogether_rt_{name} {help_text}", f"# TYPE altogether_rt_{name} {kind}"]
        lines += [f"altogether_rt_{name}{labels} {value}" for labels, value in samples.items()]
    return "\n".join(lines) + "\n"


def _metrics(
    state: RunState, start_s: float, now_s: float, running: bool
) -> Iterator[tuple[str, str, str, Mapping[str, float]]]:
    """(name, type, help, value by labels) of each metric."""

    def single(value: float) -> Mapping[str, float]:
        return {"": value}

    yield "images_total", "counter", "Images answered by this run.", single(state.done)
    yield "captions_total", "counter", "Images captioned by this run.", single(state.captioned)
    errors = {f'{{class="{_escaped(kind)}"}}': num for kind, num in state.errors.items()}
    yield "errors_total", "counter", "Images without a caption, by class of error.", errors
    yield "caption_tokens_total", "counter", "Tokens of the captions.", single(state.tokens)
    yield "worker_restarts_total", "counter", "Workers started again.", single(state.restarts)
    yield "images_per_second", "gauge", "Average rate of this run.", single(state.rate)
    yield "queue_depth", "gauge", "Images read ahead of their answers.", single(state.queue_depth)
    if state.total is not None:
        yield "images_expected", "gauge", "Images that this run has to do.", single(state.total)
    if state.seconds_left is not None:
        yield "seconds_left", "gauge", "Time left at this rate.", single(state.seconds_left)
    yield "running", "gauge", "1 while the run lasts, 0 afterwards.", single(int(running))
    yield "start_timestamp_seconds", "gauge", "When the run began.", single(start_s)
    yield "last_update_timestamp_seconds", "gauge", "When this was written.", single(now_s)


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
