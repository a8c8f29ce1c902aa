"""Output of a long run: options for progress, a log and metrics, and what they open.

A command takes the four options and does its work within `open_run_output`. Everything that it
says through `Output` (notes, errors, the result) is in the log too; a `RunMonitor` from
`Output.progress` with `run.observers` shows progress and keeps the file of metrics.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from altogether_rt import __version__
from altogether_rt.cli.failures import FAILURES, failure
from altogether_rt.cli.output import Output
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.interrupts import sigterm_interrupts
from altogether_rt.machine.device import installed_version
from altogether_rt.machine.limits import read_limits
from altogether_rt.monitoring.base import Observer
from altogether_rt.monitoring.display import ProgressMode
from altogether_rt.monitoring.log import EventLog
from altogether_rt.monitoring.metrics import MetricsFile

__all__ = [
    "INTERRUPTED",
    "LogFileOption",
    "LogJsonOption",
    "MetricsFileOption",
    "ProgressOption",
    "Reporting",
    "RunOutput",
    "open_run_output",
]

INTERRUPTED = "Interrupted: the captions so far are kept; give the same command to go on."

ProgressOption = Annotated[
    ProgressMode,
    typer.Option(
        metavar="auto|json|plain|none",
        help="Progress on stderr: a line that is redrawn (on a terminal), JSON lines, or a "
        "plain line every 30 seconds.",
    ),
]
LogFileOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Append the run's events to a log.")
]
LogJsonOption = Annotated[bool, typer.Option("--log-json", help="Write the log as JSON lines.")]
MetricsFileOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Maintain counters in a file in Prometheus' text format."),
]

#: Packages whose version the log names.
_PACKAGES = ("numpy", "pillow", "tokenizers", "onnxruntime", "onnxruntime-gpu", "torch", "ray")


@dataclass(frozen=True)
class Reporting:
    """What the four options say."""

    progress: ProgressMode = ProgressMode.AUTO
    log_file: Path | None = None
    log_json: bool = False
    metrics_file: Path | None = None

    def __post_init__(self) -> None:
        if self.log_json and self.log_file is None:
            raise typer.BadParameter("it needs --log-file.", param_hint="--log-json")

    def check_paths(self, used: Sequence[Path | None]) -> None:
        """Raise AltogetherError if the log or the metrics would go where something else goes."""
        others = [path for path in used if path is not None]
        for option, path in (("--log-file", self.log_file), ("--metrics-file", self.metrics_file)):
            if path is None:
                continue
            clash = next((other for other in others if _same(path, other)), None)
            if clash is not None:
                raise AltogetherError(f"{option} is {clash}, which the run uses: name another.")
            others.append(path)


@dataclass
class RunOutput:
    """Where a run speaks to."""

    output: Output
    observers: list[Observer] = field(default_factory=list)  # for `Output.progress` of the run


@contextmanager
def open_run_output(
    command: str,
    parameters: Mapping[str, Any],
    reporting: Reporting,
    used: Sequence[Path | None] = (),
    *,
    as_json: bool = False,
    quiet: bool = False,
    interrupted: str = "Interrupted: finished work is kept.",
) -> Iterator[RunOutput]:
    """The output of a run; its log gets the start, with parameters and versions, and the end.

    used: files that the run reads or writes. interrupted: said on Ctrl-C, unless
    the exception says something. An error that is the user's to mend is printed as the progress
    is, in JSON too, and ends the command.
    """
    output = Output(as_json=as_json, quiet=quiet, progress=reporting.progress)
    run = RunOutput(output)
    with ExitStack() as stack:
        try:
            reporting.check_paths(used)
            if reporting.log_file is not None:
                log = EventLog(reporting.log_file, as_json=reporting.log_json)
                stack.callback(log.close)
                output.observe(log)
            if reporting.metrics_file is not None:
                run.observers.append(MetricsFile(reporting.metrics_file))
            output.event("info", "start", f"{command} begins", **_facts(command, parameters))
            with sigterm_interrupts():
                yield run
        except FAILURES as error:
            found = failure(error)
            if found is None:
                _log_bug(output, command, error)
                raise
            code, message = found
            is_silent = isinstance(error, KeyboardInterrupt) and not str(error)
            output.error(interrupted if is_silent else message)
            output.event("error", "end", f"{command} ended with {code}", exit_code=code)
            raise typer.Exit(code) from None
        except BaseException as error:
            _log_bug(output, command, error)
            raise
        output.event("info", "end", f"{command} ended", exit_code=0)


def _log_bug(output: Output, command: str, error: BaseException) -> None:
    """Unless it is a way to end the program."""
    if not isinstance(error, (typer.Exit, SystemExit, BrokenPipeError)):
        kind = type(error).__name__
        output.event("error", "bug", f"{command} ended with {kind}: {error}")


def _facts(command: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What one wants to know of a run a year later."""
    versions = {name: installed_version(name) for name in _PACKAGES}
    return {
        "command": command,
        "parameters": {key: _plain(value) for key, value in parameters.items()},
        "arguments": sys.argv[1:],
        "folder": os.getcwd(),
        "versions": {
            "altogether-rt": __version__,
            "python": platform.python_version(),
            **{name: version for name, version in versions.items() if version is not None},
        },
        "platform": platform.platform(),
        "machine": asdict(read_limits()),
    }


def _plain(value: Any) -> Any:
    """As JSON can hold it."""
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _same(path: Path, other: Path) -> bool:
    try:
        if path.exists() and other.exists():
            return os.path.samefile(path, other)
    except OSError:
        return False
    return os.path.realpath(path) == os.path.realpath(other)
