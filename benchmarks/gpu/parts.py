"""One part of a run: a process of its own, so that its crash or delay is the part's alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from .clock import Deadline
from .memory import DeviceMemory

__all__ = ["LIMIT_S", "Outcome", "Part", "run_part", "worker_command"]

Status = Literal["ok", "skipped", "failed", "timeout"]

#: Below this much time a process cannot even import torch.
LEAST_S = 5.0
#: More than this no part takes from the others.
LIMIT_S = 300.0
_BENCHMARKS = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Part:
    """A command, and how long it may take."""

    name: str
    command: Sequence[str]
    answer: Path | None = None  # a JSON file that the command writes, anew as it gets on
    needs_s: float = LEAST_S  # not started with less time than this
    limit_s: float = LIMIT_S


@dataclass(frozen=True)
class Outcome:
    """What became of a part; `data` is what it had measured until then."""

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


def worker_command(task: str, answer: Path, **request: Any) -> list[str]:
    """The command that runs one task of `worker.py`."""
    text = json.dumps({"task": task, "answer": str(answer), **request})
    return [sys.executable, "-m", f"{__package__}.worker", text]


def run_part(part: Part, deadline: Deadline) -> Outcome:
    """Run `part` if there is time for it; never raises for what goes wrong in it."""
    left_s = deadline.remaining_s
    if left_s < part.needs_s:
        reason = f"no time: it needs about {part.needs_s:.0f} s and {max(left_s, 0):.0f} s are left"
        return Outcome(part.name, "skipped", reason)
    start = time.monotonic()
    limit_s = min(part.limit_s, left_s)
    with DeviceMemory() as memory:
        status, reason = _run(part.command, limit_s)
    data = _read(part.answer)
    if status != "timeout" and "skipped" in data:
        status, reason = "skipped", data.pop("skipped")
    seconds = round(time.monotonic() - start, 1)
    return Outcome(part.name, status, reason, seconds, memory.peak_bytes, data)


def _run(command: Sequence[str], limit_s: float) -> tuple[Status, str | None]:
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": _python_path()},
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
    if process.returncode < 0:
        return "failed", f"killed by {signal.Signals(-process.returncode).name}"
    if process.returncode:
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        return "failed", lines[-1][:500] if lines else f"exit code {process.returncode}"
    return "ok", None


def _end(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _python_path() -> str:
    """Where this package is found under the name that it has here, and the checkout's own code."""
    given = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([str(_BENCHMARKS), str(_BENCHMARKS.parent), *given.split(os.pathsep)])


def _read(answer: Path | None) -> dict[str, Any]:
    if answer is None or not answer.is_file():
        return {}
    data: dict[str, Any] = json.loads(answer.read_text("utf-8"))
    return data
