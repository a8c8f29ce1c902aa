"""A command that a run needs, in a process of its own: its crash or delay stops nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.contestant import BENCHMARKS, ROOT
from harness.device_memory import DeviceMemory
from harness.protocol import describe_exit, last_line
from harness.schedule import Deadline

__all__ = [
    "LIMIT_S",
    "Outcome",
    "Part",
    "Status",
    "no_time",
    "python_path",
    "run_part",
    "write_json",
]

Status = Literal["ok", "skipped", "failed", "timeout"]

#: A process with less time than this cannot even import torch.
MIN_S = 5.0
#: No part takes more than this from the others.
LIMIT_S = 300.0


@dataclass(frozen=True)
class Part:
    """A command, and how long it may take."""

    name: str
    command: Sequence[str]
    answer: Path | None = None  # a JSON file that the command rewrites whenever it has figures
    needs_s: float = MIN_S  # not started with less time than this
    limit_s: float = LIMIT_S


@dataclass(frozen=True)
class Outcome:
    """How a part or a contestant ended; `data` is what it had measured by then."""

    name: str
    status: Status
    reason: str | None = None
    seconds: float = 0.0
    peak_device_bytes: int | None = None
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_part(part: Part, deadline: Deadline) -> Outcome:
    """Run `part` if there is time for it. Whatever goes wrong in it becomes an outcome."""
    left_s = deadline.remaining_s
    if left_s < part.needs_s:
        return Outcome(part.name, "skipped", no_time(part.needs_s, left_s))
    start = time.monotonic()
    limit_s = min(part.limit_s, left_s)
    with DeviceMemory() as memory:
        status, reason = _run(part.command, limit_s)
    data = _read(part.answer)
    if status != "timeout" and "skipped" in data:
        status, reason = "skipped", data.pop("skipped")
    seconds = round(time.monotonic() - start, 1)
    return Outcome(part.name, status, reason, seconds, memory.peak_bytes, data)


def no_time(needed_s: float, left_s: float) -> str:
    """The reason of a part or a contestant that is not started."""
    return f"no time: it needs about {needed_s:.0f} s and {max(left_s, 0):.0f} s are left"


def _run(command: Sequence[str], limit_s: float) -> tuple[Status, str | None]:
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": python_path()},
        start_new_session=True,  # so that what it starts ends with it
    )
    try:
        _, errors = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        _end(process)
        return "timeout", f"stopped after {limit_s:.0f} s"
    except BaseException:
        _end(process)
        raise
    if process.returncode:
        said = last_line(errors) if process.returncode > 0 else ""
        return "failed", said or describe_exit(process.returncode)
    return "ok", None


def _end(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def python_path() -> str:
    """So that the command imports the modules of benchmarks/ and the package of this checkout."""
    given = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([str(BENCHMARKS), str(ROOT), *given.split(os.pathsep)])


def _read(answer: Path | None) -> dict[str, Any]:
    if answer is None or not answer.is_file():
        return {}
    data: dict[str, Any] = json.loads(answer.read_text("utf-8"))
    return data


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Replace `path` in one step, so that it is whole whenever the run is stopped."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")
    temporary.replace(path)
