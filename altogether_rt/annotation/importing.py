"""Imports answers that were written elsewhere: in a packed page or in Label Studio.

They are validated like the page's own. Rows that exist already are skipped, rows older than the
current answer are refused, and refusals are counted by reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from altogether_rt.annotation.answers import (
    AnswerError,
    checked_answer,
    current_answers,
    is_time,
    row_key,
    withdrawn_answer,
)
from altogether_rt.annotation.label_studio import answer_of
from altogether_rt.annotation.work import Round, Task, Work
from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError
from altogether_rt.web.answers import AnswerFile, check_annotator

__all__ = ["Imported", "import_answers"]

Row = Mapping[str, Any]

_MAX_BYTES: Final = 256 * 1024 * 1024
_MAX_GUIDELINE_CHARS: Final = 64


@dataclass
class Imported:
    """Result of an import."""

    source: str = "pack"  # or "label-studio"
    num_rows: int = 0
    taken: Counter[str] = field(default_factory=Counter)  # by annotator
    unchanged: int = 0  # of the taken: the text that the round started from
    already_there: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by reason
    examples: Problems = field(default_factory=Problems)  # of what was refused


def import_answers(work: Work, path: Path, annotator: str | None = None) -> Imported:
    """Append the answers in a file, for the open round, to the annotators' files.

    annotator: overrides the names in the file. Raises AltogetherError if the file has neither
    format, or another process is writing one of the answer files.
    """
    if annotator is not None:
        check_annotator(annotator)
    rows, source = _read(path, annotator)
    opened = work.round()
    tasks: dict[str, list[Task]] = {}
    for task in opened.tasks:
        tasks.setdefault(task.file_name, []).append(task)
    imported = Imported(source, len(rows))
    with ExitStack() as stack:
        stack.enter_context(work.locked(alone=False))
        targets: dict[str, _Target] = {}
        for number, row in enumerate(rows, 1):
            try:
                task = _task_of(row, opened, tasks)
                taken = _checked(row, task, opened.number, source, annotator)
                name = taken["annotator"]
                if name not in targets:
                    file = stack.enter_context(AnswerFile(work.answer_path(name)))
                    targets[name] = _Target(file, opened.number)
                if targets[name].add(taken):
                    imported.taken[name] += 1
                    imported.unchanged += taken.get("text") == task.text
                else:
                    imported.already_there += 1
            except AnswerError as error:
                imported.refused[error.reason] += 1
                imported.examples.add(f"row {number}: {str(error).rstrip('.')}")
    return imported


class _Target:
    """One annotator's file and its current answers."""

    def __init__(self, file: AnswerFile, round_number: int) -> None:
        self._file = file
        self._known = {_canonical(row) for row in file.rows}
        self._counting = current_answers(file.rows, round_number)

    def add(self, row: Row) -> bool:
        """Append a row; False if it exists already. Raises AnswerError if a later answer exists."""
        if _canonical(row) in self._known:
            return False
        counting = self._counting.get(row_key(row))
        if counting is not None and counting["time"] > row["time"]:
            raise AnswerError("older", f"{row['file_name']} was answered later than in this file.")
        self._file.append(row)
        self._known.add(_canonical(row))
        self._counting[row_key(row)] = row
        return True


def _canonical(row: Row) -> str:
    return json.dumps(row, sort_keys=True)


def _read(path: Path, annotator: str | None) -> tuple[Sequence[Row], str]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise AltogetherError(f"{path} is too large to be a file of answers.")
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise AltogetherError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise AltogetherError(f"{path} is not in UTF-8.") from error
    try:
        if text.lstrip().startswith("["):
            entries = [entry if isinstance(entry, dict) else {} for entry in json.loads(text)]
            return [answer_of(entry, annotator) for entry in entries], "label-studio"
        # Not `splitlines`: a text that was pasted into the page may hold U+2028, as its rows do.
        values = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError) as error:
        raise AltogetherError(
            f"{path} holds neither rows of answers nor Label Studio's JSON_MIN: {error}."
        ) from error
    return [value if isinstance(value, dict) else {} for value in values], "pack"


def _task_of(row: Row, opened: Round, tasks: Mapping[str, list[Task]]) -> Task:
    name, image = row.get("file_name"), row.get("image_hash")
    found = [t for t in tasks.get(str(name), ()) if image in (None, t.image_hash)]
    if len(found) != 1:
        raise AnswerError(
            "another image", f"round {opened.number} has no image {name!r} with these bytes."
        )
    if row.get("round", opened.number) != opened.number:
        raise AnswerError(
            "another round",
            f"{name} was answered in round {row['round']}, and round {opened.number} is open.",
        )
    return found[0]


def _checked(
    row: Row, task: Task, round_number: int, source: str, annotator: str | None
) -> dict[str, Any]:
    name, time = annotator or row.get("annotator"), row.get("time")
    guideline = row.get("guideline")
    if name is None:
        raise AnswerError("malformed", f"the answer to {task.file_name} names no annotator.")
    try:
        check_annotator(str(name))
    except AltogetherError as error:
        raise AnswerError("annotator", f"{error} Or give --as.") from error
    if not isinstance(time, str) or not is_time(time):
        raise AnswerError("malformed", f"the answer to {task.file_name} has no time.")
    if not isinstance(guideline, str) or len(guideline) > _MAX_GUIDELINE_CHARS:
        raise AnswerError("malformed", f"the answer to {task.file_name} has no guideline.")
    # The undo history is not imported, only its result: an answer, or that there is none.
    check = withdrawn_answer if row.get("withdrawn") else checked_answer
    return check(
        task, round_number, row, annotator=name, guideline=guideline, via=source, time=time
    )
