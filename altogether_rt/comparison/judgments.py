"""Annotators' answers as stored, and what they say about the systems."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from altogether_rt.comparison.study import Key, Side, Study, Task
from altogether_rt.data.problems import Problems

__all__ = ["CHOICES", "MAX_SECONDS", "Judgment", "check_choices", "judgments_of", "outcome"]

#: The answers to a question, in the order in which they stand on the page.
CHOICES: Final = ("left", "tie", "right")

#: Longer times are cut to this: the page was left open.
MAX_SECONDS: Final = 86_400.0


@dataclass(frozen=True)
class Judgment:
    """One annotator's answers to one task."""

    annotator: str
    task: Task
    side: Side
    choices: Mapping[str, str]  # by question; empty where the annotator could not say
    seconds: float

    @property
    def pair(self) -> tuple[int, int]:
        """The two systems in ascending order of index."""
        low, high = sorted((self.side.left, self.side.right))
        return low, high


def check_choices(study: Study, task: Task, choices: Any) -> str | None:
    """What is wrong with the answers to a task, or None: there must be one for each question."""
    if not isinstance(choices, Mapping):
        return "choices must be an object"
    asked = {question.id for question in study.questions_of(task)}
    if choices.keys() != asked:
        return f"choices must be of {', '.join(sorted(asked))}"
    wrong = next((id_ for id_, choice in choices.items() if choice not in CHOICES), None)
    return None if wrong is None else f"{wrong} must be one of {', '.join(CHOICES)}"


def outcome(judgment: Judgment, question: str) -> float | None:
    """1 if the pair's first system won, 0 if its second did, 0.5 for a tie, None if not asked."""
    choice = judgment.choices.get(question)
    if choice is None:
        return None
    if choice == "tie":
        return 0.5
    chosen = judgment.side.left if choice == "left" else judgment.side.right
    return 1.0 if chosen == judgment.pair[0] else 0.0


def judgments_of(
    study: Study, key: Key, rows_by_annotator: Mapping[str, Iterable[Mapping[str, Any]]]
) -> tuple[list[Judgment], Problems]:
    """Each annotator's last answer to each task, and the rows that cannot be used."""
    tasks, sides = {task.id: task for task in study.tasks}, key.sides()
    problems = Problems()
    judgments: list[Judgment] = []
    for annotator, rows in rows_by_annotator.items():
        last: dict[str, Judgment] = {}
        for number, row in enumerate(rows, 1):
            wrong = _wrong_row(study, tasks, row)
            if wrong is not None:
                problems.add(f"row {number} of {annotator}: {wrong}")
                continue
            task = tasks[row["task"]]
            choices = {} if row.get("skipped") else row["choices"]
            last[task.id] = Judgment(
                annotator, task, sides[task.id], choices, float(row["seconds"])
            )
        judgments += last.values()
    return judgments, problems


def _wrong_row(study: Study, tasks: Mapping[str, Task], row: Mapping[str, Any]) -> str | None:
    task = tasks.get(row["task"]) if isinstance(row.get("task"), str) else None
    if task is None:
        return "not a task of this study"
    seconds = row.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return "no seconds"
    if not 0 <= seconds <= MAX_SECONDS:
        return "seconds out of range"
    return None if row.get("skipped") is True else check_choices(study, task, row.get("choices"))
