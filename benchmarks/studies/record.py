"""Finished runs kept in files, estimates over seeds, and the files of a result."""

from __future__ import annotations

import json
import os
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from altogether_rt.bench.report import describe_machine
from altogether_rt.errors import AltogetherError
from altogether_rt.machine.device import installed_version

__all__ = [
    "Estimate",
    "RunStore",
    "choose_words",
    "estimate",
    "percent",
    "write_result",
    "write_whole",
]

#: Student's t at 97.5 %, by degrees of freedom.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}

#: Besides those that describe_machine names.
_PACKAGES = ("open_clip_torch", "pillow")


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % interval (Student's t), which is NaN for a single seed."""

    mean: float
    low: float
    high: float


def estimate(values: Sequence[float]) -> Estimate:
    """The estimate of one to ten values."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Estimate(mean, float("nan"), float("nan"))
    half = _T[len(values) - 1] * statistics.stdev(values) / len(values) ** 0.5
    return Estimate(mean, mean - half, mean + half)


def percent(found: Estimate) -> str:
    """`12.3 ± 1.4`, of shares."""
    half = 100 * (found.high - found.mean)
    return f"{100 * found.mean:.1f}" + ("" if half != half else f" ± {half:.1f}")


def choose_words(found: Estimate, above: str, below: str, between: str) -> str:
    """The words for a difference: `between` if its interval contains 0."""
    return above if found.low > 0 else below if found.high < 0 else between


class RunStore:
    """A folder with a JSON file for each finished run of a study with the same settings."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Raises AltogetherError if the folder holds runs with other settings."""
        self.folder = folder
        self._runs = folder / "runs"
        self._runs.mkdir(parents=True, exist_ok=True)
        kept = folder / "settings.json"
        text = json.dumps(settings, indent=2) + "\n"
        if kept.exists() and kept.read_text("utf-8") != text:
            raise AltogetherError(f"{folder} holds runs with other settings: give another --work.")
        write_whole(kept, text)

    def get(self, name: str) -> dict[str, Any] | None:
        """The figures of a finished run, or None."""
        path = self._runs / f"{name}.json"
        if not path.exists():
            return None
        run: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return run

    def put(self, name: str, run: Mapping[str, Any]) -> None:
        """Keep the figures of a finished run."""
        write_whole(self._runs / f"{name}.json", json.dumps(run, indent=2) + "\n")


def write_result(
    path: Path, settings: Mapping[str, Any], figures: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the figures with their command, machine, versions and date; returns all of it."""
    machine = describe_machine()
    versions = {name: installed_version(name) for name in _PACKAGES}
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine,
        "versions": {
            **machine["versions"],
            **{name: version for name, version in versions.items() if version},
        },
        "settings": settings,
        **figures,
    }
    write_whole(path, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result


def write_whole(path: Path, text: str) -> None:
    """Write a file completely, or leave the previous one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)
