"""What was left after something went wrong, counted."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from studies.record import write_result, write_whole

__all__ = ["OURS", "Outcome", "as_table", "count_rows", "made_again", "save"]

OURS = "ours"


@dataclass
class Outcome:
    """What a contestant did about a fault. Counts are None where they were not measured."""

    fault: str
    contestant: str
    times: int  # kills, faulty tars, failed requests
    lost: int  # samples that can be read, without a caption in the end
    doubled: int  # rows that are there once more
    made_again: int | None = None  # captions that were made once more
    same_bytes: bool | None = None  # as an undisturbed run's
    told: str = ""  # what the user sees of it
    reruns: int | None = None  # commands that a person had to give again
    skipped: str = ""  # why nothing was measured

    @property
    def is_bad(self) -> bool:
        """Whether ours did what it must not."""
        if self.contestant != OURS or self.skipped:
            return False
        return bool(self.lost or self.doubled) or self.same_bytes is False

    def line(self) -> str:
        """The outcome as one line of JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)


def count_rows(files: Iterable[Path], expected: set[str]) -> tuple[int, int]:
    """(lost, doubled) of the captions in Parquet files, by their keys.

    A file that cannot be read has none; rows without a caption are not captions.
    """
    found: Counter[str] = Counter()
    for path in files:
        try:
            table = pq.read_table(path, columns=["key", "caption"])
        except (OSError, ValueError):
            continue
        rows = zip(table["key"].to_pylist(), table["caption"].to_pylist(), strict=True)
        found.update(key for key, caption in rows if caption is not None)
    lost = len(expected - found.keys())
    return lost, sum(count - 1 for count in found.values())


def made_again(log: Path) -> int:
    """Captions in a log that had been made before."""
    lines = log.read_text("utf-8").splitlines()
    return len(lines) - len(set(lines))


def as_table(outcomes: list[Outcome]) -> str:
    """The outcomes in Markdown."""
    lines = [
        "| what went wrong | | times | lost | doubled | made again | commands given again | told |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for outcome in outcomes:
        if outcome.skipped:
            lines.append(f"| {outcome.fault} | {outcome.contestant} | – | – | – | – | – | "
                         f"{outcome.skipped} |")  # fmt: skip
            continue
        made = "–" if outcome.made_again is None else f"{outcome.made_again}"
        reruns = "–" if outcome.reruns is None else f"{outcome.reruns}"
        told = outcome.told
        if outcome.same_bytes is not None:
            same = "the bytes of an undisturbed run" if outcome.same_bytes else "OTHER BYTES"
            told = f"{same}; {told}" if told else same
        lines.append(
            f"| {outcome.fault} | {outcome.contestant} | {outcome.times} | {outcome.lost} | "
            f"{outcome.doubled} | {made} | {reruns} | {told} |"
        )
    return "\n".join(lines) + "\n"


def _former(path: Path) -> list[Outcome]:
    if not path.exists():
        return []
    return [Outcome(**data) for data in json.loads(path.read_text("utf-8"))["outcomes"]]


def save(path: Path, settings: dict[str, Any], outcomes: list[Outcome]) -> None:
    """Write the JSON and, beside it, the Markdown; what an earlier run found out stays."""
    new = {(outcome.fault, outcome.contestant) for outcome in outcomes}
    outcomes = [old for old in _former(path) if (old.fault, old.contestant) not in new] + outcomes
    figures = {"outcomes": [dataclasses.asdict(outcome) for outcome in outcomes]}
    result = write_result(path, settings, figures)
    machine = result["machine"]
    about = (
        f"`{result['command']}`, {machine['processor']}, {machine['date']}, "
        f"{result['settings']['shards']} shards of {settings['samples_a_shard']} samples, parts of "
        f"{settings['part_rows']} rows. Lost: samples that can be read and have no caption in the "
        "end, after the command was given again until it succeeded. The machine was shared: a load "
        f"of {os.getloadavg()[2]:.0f} on {os.cpu_count()} cores.\n\n"
    )
    write_whole(path.with_suffix(".md"), about + as_table(outcomes))
