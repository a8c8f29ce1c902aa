"""Exports a work folder as training rows: images with their alt-texts and all rounds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from altogether_rt.annotation.rounds import answers_of_round, changed_images, resolve
from altogether_rt.annotation.work import Task, TaskKey, Work
from altogether_rt.data.file_hash import file_hash
from altogether_rt.data.problems import Problems

__all__ = ["Export", "training_rows"]

Row = Mapping[str, Any]


@dataclass
class Export:
    """Training rows, and counts of the images that were left out."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)  # by reason
    changed: Problems = field(default_factory=Problems)  # images whose bytes are no longer the same


@dataclass
class _History:
    """What all rounds contain about one image."""

    task: Task  # of the last round that has it
    flag: str | None = None
    rounds: tuple[str, ...] = ()
    annotators: tuple[str, ...] = ()  # who wrote rounds 2, 3, …
    flags: tuple[str, ...] = ()  # of the last round
    guideline: str | None = None


def training_rows(work: Work, out: Path, advance: Callable[[], None] = lambda: None) -> Export:
    """The rows, with file names relative to the folder of `out`.

    Left out and counted: images without an answer, flagged as private or unusable by anyone in
    any round, mixed in as gold, or changed since the round was opened.
    """
    export = Export()
    histories = list(_histories(work))
    changed = changed_images(work, [history.task for history in histories], advance)
    for history in histories:
        task = history.task
        if task.extra:
            export.left_out["gold"] += 1
        elif history.flag is not None:
            export.left_out[history.flag] += 1
        elif len(history.rounds) < 2:
            export.left_out["without an answer"] += 1
        elif task.key in changed:
            export.left_out["changed"] += 1
            export.changed.add(changed[task.key].rstrip("."))
        else:
            export.rows.append(_row(work, history, out))
    return export


def _histories(work: Work) -> Iterator[_History]:
    """Every image of the work folder, in the order of the first round."""
    found: dict[TaskKey, _History] = {}
    for number in work.round_numbers:
        tasks = work.round(number).tasks
        answers = answers_of_round(work, number)
        resolved = resolve(tasks, answers)
        for task in tasks:
            history = found.setdefault(task.key, _History(task, rounds=task.rounds))
            history.task = task
            history.flag = resolved.left_out.get(task.key, history.flag)
            answer = resolved.texts.get(task.key)
            if answer is not None:
                history.rounds = (*task.rounds, answer["text"])
                history.annotators = (*history.annotators, answer["annotator"])
                history.flags = tuple(answer["flags"])
                history.guideline = answer["guideline"]
    yield from found.values()


def _row(work: Work, history: _History, out: Path) -> dict[str, Any]:
    task = history.task
    image = work.image_file(task).path
    path = os.path.relpath(image.resolve(), out.parent.resolve())
    row: dict[str, Any] = {
        "file_name": Path(path).as_posix(),
        "alts": list(task.alts),
        "rounds": list(history.rounds),
        "started_from": task.started_from,
        "annotators": list(history.annotators),
        "flags": list(history.flags),
        "guideline": history.guideline,
        # As rows of captions have it; the file was found to be the one that was annotated.
        "image_hash": file_hash(image) or task.image_hash,
    }
    return row if task.captioner is None else row | {"captioner": task.captioner}
