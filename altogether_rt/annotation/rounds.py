"""From one round to the next: one answer per image is chosen, and the next round starts from it.

Of several answers to an image, the one nearest to all others is chosen: the fewest words removed
and added in total, so the others would have to change it least. Two answers are always equally near
to each other; then the one with more words is chosen, because the next round notices a wrong word
more reliably than a missing one. Remaining ties are drawn. Images that anyone flagged as private or
unusable are not in later rounds.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from altogether_rt.annotation.answers import NOT_EXPORTED, current_answers, now
from altogether_rt.annotation.assign import assign, check_shares, draw_order
from altogether_rt.annotation.words import split_words, word_distance
from altogether_rt.annotation.work import Task, TaskKey, Work, write_round
from altogether_rt.errors import AltogetherError
from altogether_rt.web.images import read_image_file

__all__ = ["Resolved", "answers_of_round", "changed_images", "next_round", "resolve"]

Row = Mapping[str, Any]


@dataclass
class Resolved:
    """The outcome of a round."""

    texts: dict[TaskKey, Row] = field(default_factory=dict)  # the chosen answer
    left_out: dict[TaskKey, str] = field(default_factory=dict)  # value: the flag
    unanswered: list[Task] = field(default_factory=list)


def answers_of_round(work: Work, number: int) -> dict[TaskKey, list[Row]]:
    """Current answers by image; those of an image in order of the annotators' names."""
    found: dict[TaskKey, list[Row]] = {}
    for rows in work.answers().values():
        for key, row in current_answers(rows, number).items():
            found.setdefault(key, []).append(row)
    return found


def resolve(tasks: Sequence[Task], answers: Mapping[TaskKey, Sequence[Row]]) -> Resolved:
    """Choose one answer per image by the rule above."""
    resolved = Resolved()
    for task in tasks:
        rows = answers.get(task.key, ())
        flags = [flag for flag in NOT_EXPORTED if any(flag in row["flags"] for row in rows)]
        if flags:
            resolved.left_out[task.key] = flags[0]
        elif rows:
            resolved.texts[task.key] = _choose(rows)
        else:
            resolved.unanswered.append(task)
    return resolved


def _choose(rows: Sequence[Row]) -> Row:
    if len(rows) == 1:
        return rows[0]

    def rank(row: Row) -> tuple[int, int, bytes]:
        distance = sum(word_distance(row["text"], other["text"]) for other in rows)
        lot = draw_order(f"{row['annotator']}/{row['file_name']}", 0)
        return distance, -len(split_words(row["text"])), lot

    return min(rows, key=rank)


def changed_images(
    work: Work, tasks: Sequence[Task], advance: Callable[[], None] = lambda: None
) -> dict[TaskKey, str]:
    """Images that are missing or whose bytes have changed, each with a sentence about it."""
    changed = {}
    for task in tasks:
        try:
            read_image_file(work.image_file(task))
        except AltogetherError as error:
            changed[task.key] = str(error)
        advance()
    return changed


def next_round(
    work: Work,
    *,
    annotators: Sequence[str] | None = None,
    overlap: float | None = None,
    partial: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> tuple[int, list[Task], Resolved]:
    """Open the next round; returns its number, its tasks, and the outcome of the one before.

    annotators, overlap: None keeps those of the round before. partial: continue although answers
    are missing; images without any are not in the next round. Raises AltogetherError if answers
    are missing otherwise, if an image has changed, or if a page is being served.
    """
    number = work.current_number
    before = work.round(number)
    names = before.annotators if annotators is None else tuple(annotators)
    share = before.overlap if overlap is None else overlap
    if annotators is not None and len(names) < 2 and overlap is None:
        share = 0.0  # one annotator cannot overlap with anyone
    check_shares(names, share)
    with work.locked(alone=True):  # no answer may arrive meanwhile
        answers = answers_of_round(work, number)
        resolved = resolve(before.tasks, answers)
        if not partial:
            _check_complete(before.tasks, answers, number)
        if not resolved.texts:
            raise AltogetherError(f"round {number} has no answer that another could start from.")
        carried = [task for task in before.tasks if task.key in resolved.texts]
        _refuse_changed(changed_images(work, carried, advance))
        tasks = [_carry(task, resolved.texts[task.key]) for task in carried]
        seed = int(json.loads((work.folder / "work.json").read_text("utf-8")).get("seed", 0))
        tasks = assign(tasks, names, share, seed + number)
        about = {
            "round": number + 1,
            "opened": now(),
            "annotators": list(names),
            "overlap": share,
            "unanswered": len(resolved.unanswered),
            "left_out": len(resolved.left_out),
        }
        write_round(work.folder, number + 1, about, tasks)
    return number + 1, tasks, resolved


def _carry(task: Task, answer: Row) -> Task:
    return dataclasses.replace(
        task, rounds=(*task.rounds, answer["text"]), author=answer["annotator"]
    )


def _check_complete(
    tasks: Sequence[Task], answers: Mapping[TaskKey, Sequence[Row]], number: int
) -> None:
    missing = [t for t in tasks if len(answers.get(t.key, ())) < max(1, len(t.annotators))]
    if missing:
        waiting = Counter(
            name
            for task in missing
            for name in task.annotators
            if all(row["annotator"] != name for row in answers.get(task.key, ()))
        )
        who = ", ".join(f"{name}: {count:,}" for name, count in sorted(waiting.items()))
        num_open = sum(not answers.get(task.key) for task in missing)
        without = f", without the {num_open:,} that nobody has answered" if num_open else ""
        raise AltogetherError(
            f"{len(missing):,} of {len(tasks):,} images lack an answer in round {number}"
            f"{f' ({who})' if who else ''}, {missing[0].file_name} for one: finish them, or "
            f"continue with --partial{without}."
        )


def _refuse_changed(changed: Mapping[TaskKey, str]) -> None:
    if changed:
        first, rest = next(iter(changed.values())), len(changed) - 1
        others = f" (and {rest:,} more: {', '.join(n for n, _ in list(changed)[1:6])})"
        raise AltogetherError(first.rstrip(".") + (others if rest else "") + ".")
