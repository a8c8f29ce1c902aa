"""Answers: one annotator's text and flags for one image, as rows, with their validation."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from altogether_rt.annotation.work import Task, TaskKey, hash_text
from altogether_rt.data.alts import MAX_ALT_CHARS, clean_text
from altogether_rt.errors import AltogetherError

__all__ = [
    "FLAGS",
    "NOT_EXPORTED",
    "AnswerError",
    "checked_answer",
    "current_answers",
    "is_time",
    "now",
    "row_key",
    "withdrawn_answer",
]

Row = Mapping[str, Any]

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

#: What an image or its text can be flagged as, and what that means.
FLAGS: Final = {
    "cannot_verify": "something the text says cannot be told from the image",
    "private": "shows what is private",
    "unusable": "broken, blank, or nothing that can be described",
}
#: Flags that keep an image out of later rounds and of what is exported.
NOT_EXPORTED: Final = ("private", "unusable")

#: Upper bound in seconds: a page left open overnight was not being read all that time.
_MAX_SECONDS: Final = 24 * 3600.0


class AnswerError(AltogetherError):
    """An answer that is refused. `reason` is a short class of reasons, used for counts."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def checked_answer(
    task: Task,
    round_number: int,
    said: Row,
    *,
    annotator: str,
    guideline: str,
    via: str,
    time: str | None = None,
) -> dict[str, Any]:
    """Validate an answer and build its row. `said` has text, flags, seconds and the hash `from`.

    Raises AnswerError if it is malformed, or was written for another starting text than the task's.
    """
    _check_start(task, said)
    name = task.file_name
    text, flags = said.get("text"), said.get("flags", [])
    if not isinstance(text, str):
        raise AnswerError("malformed", f"the answer to {name} has no text.")
    if not _are_flags(flags):
        known = ", ".join(FLAGS)
        raise AnswerError("malformed", f"the answer to {name} has unknown flags: give {known}.")
    text = clean_text(text)
    if len(text) > MAX_ALT_CHARS:
        raise AnswerError(
            "too long", f"the text of {name} is longer than {MAX_ALT_CHARS:,} characters."
        )
    if not text and not set(flags) & set(NOT_EXPORTED):
        raise AnswerError(
            "empty", f"the text of {name} is empty: write one, or flag the image as unusable."
        )
    row = _row(task, round_number, annotator, guideline, via, time)
    return row | {
        "text": text,
        "flags": [flag for flag in FLAGS if flag in flags],
        "seconds": _seconds(said.get("seconds")),
    }


def withdrawn_answer(
    task: Task,
    round_number: int,
    said: Row,
    *,
    annotator: str,
    guideline: str,
    via: str,
    time: str | None = None,
) -> dict[str, Any]:
    """Build the row that withdraws an answer; arguments and errors as for `checked_answer`."""
    _check_start(task, said)
    return _row(task, round_number, annotator, guideline, via, time) | {"withdrawn": True}


def _check_start(task: Task, said: Row) -> None:
    if said.get("from") != hash_text(task.text):
        raise AnswerError(
            "another text",
            f"the answer to {task.file_name} began from a text that is not this round's.",
        )


def _row(
    task: Task, round_number: int, annotator: str, guideline: str, via: str, time: str | None
) -> dict[str, Any]:
    return {
        "file_name": task.file_name,
        "image_hash": task.image_hash,
        "round": round_number,
        "from": hash_text(task.text),
        "started_from": task.started_from,
        "annotator": annotator,
        "time": time or now(),
        "guideline": guideline,
        "via": via,
    }


def current_answers(rows: Iterable[Row], round_number: int) -> dict[TaskKey, Row]:
    """One annotator's current answers in a round: the last row of each image."""
    found: dict[TaskKey, Row] = {}
    for row in rows:
        if row.get("round") == round_number:
            found.pop(row_key(row), None)
            if not row.get("withdrawn"):
                found[row_key(row)] = row
    return found


def row_key(row: Row) -> TaskKey:
    return str(row.get("file_name")), str(row.get("image_hash"))


def now() -> str:
    """`2026-11-26T09:30:12.345Z`"""
    time = datetime.datetime.now(datetime.UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_time(value: Any) -> bool:
    """Whether a value has the form of `now`. Such times sort correctly as text."""
    return isinstance(value, str) and _TIME.fullmatch(value) is not None


def _are_flags(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(f, str) and f in FLAGS for f in value)


def _seconds(value: Any) -> float | None:
    """Seconds within bounds; None if the value is not a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not abs(value) < math.inf:  # NaN fails; `isfinite` would raise for an integer of 400 digits
        return None
    return round(float(min(max(value, 0.0), _MAX_SECONDS)), 1)
