"""The report: how much each round changed, how carefully, and how far annotators agree."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from altogether_rt.annotation.answers import FLAGS, current_answers
from altogether_rt.annotation.rounds import resolve
from altogether_rt.annotation.words import change_between, kept_words, split_words
from altogether_rt.annotation.work import Task, TaskKey, Work
from altogether_rt.evaluation.names import NameFinder, contains_name, plain_words
from altogether_rt.scenes.score import Scores
from altogether_rt.statistics import krippendorff_alpha

__all__ = ["Tally", "is_too_fast", "report_work"]

Row = Mapping[str, Any]

#: No one sees an image in less time or reads faster: 600 words a minute is skimming.
_SECONDS_PER_IMAGE: Final = 1.0
_WORDS_PER_SECOND: Final = 10.0


def is_too_fast(task: Task, answer: Row) -> bool:
    """Whether the answer came sooner than 1 s plus 0.1 s per word of the starting text."""
    seconds = answer.get("seconds")
    needed = _SECONDS_PER_IMAGE + len(split_words(task.text)) / _WORDS_PER_SECOND
    return seconds is not None and seconds < needed


@dataclass
class Tally:
    """Counts over the answers of a round, or of one annotator in it."""

    finder: NameFinder
    answers: int = 0
    unchanged: int = 0
    words_kept: int = 0
    words_added: int = 0
    words_removed: int = 0
    names: int = 0  # of the texts that were started from
    names_lost: int = 0
    too_fast: int = 0
    flags: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def add(self, task: Task, answer: Row) -> None:
        change = change_between(task.text, answer["text"])
        words = plain_words(answer["text"])
        # Joined alt-texts would join the names where they meet.
        texts = task.alts if task.text == " ".join(task.alts) else (task.text,)
        names = {name for text in texts for name in self.finder.names(text)}
        self.answers += 1
        self.unchanged += answer["text"] == task.text
        self.words_kept += change.kept
        self.words_added += change.added
        self.words_removed += change.removed
        self.names += len(names)
        self.names_lost += sum(not contains_name(words, name) for name in names)
        self.too_fast += is_too_fast(task, answer)
        self.flags.update(answer["flags"])
        if answer.get("seconds") is not None:
            self.seconds.append(answer["seconds"])

    def to_dict(self) -> dict[str, Any]:
        """Counts, shares in percent and means; None where nothing was counted."""
        return {
            "answers": self.answers,
            "unchanged": _percent(self.unchanged, self.answers),
            "words_kept": _mean(self.words_kept, self.answers),
            "words_added": _mean(self.words_added, self.answers),
            "words_removed": _mean(self.words_removed, self.answers),
            "names": self.names,
            "names_lost": _percent(self.names_lost, self.names),
            "too_fast": self.too_fast,
            "seconds": round(statistics.median(self.seconds), 1) if self.seconds else None,
            "flags": {flag: self.flags[flag] for flag in FLAGS},
        }


def report_work(work: Work) -> dict[str, Any]:
    """All figures: `rounds`, each with its `annotators`, `doubles` and `gold`.

    Words and names of an answer are compared with the text that its round started from.
    """
    rows = work.answers()
    facts = work.gold_facts()
    rounds = []
    for number in work.round_numbers:
        opened = work.round(number)
        answers = {name: current_answers(own, number) for name, own in rows.items()}
        rounds.append(_report_round(number, opened.tasks, answers, facts))
    return {"work": str(work.folder), "guideline": work.guideline.stamp, "rounds": rounds}


def _report_round(
    number: int,
    tasks: Sequence[Task],
    answers: Mapping[str, Mapping[TaskKey, Row]],
    facts: Mapping[TaskKey, Row],
) -> dict[str, Any]:
    by_key: dict[TaskKey, list[Row]] = {}
    finder = NameFinder(text for task in tasks for text in (*task.alts, *task.rounds))
    total = Tally(finder)
    tallies = {name: Tally(finder) for name, own in answers.items() if own}
    unknown = 0
    known = {task.key: task for task in tasks}
    for name, own in answers.items():
        for key, answer in own.items():
            if key not in known:
                unknown += 1
                continue
            by_key.setdefault(key, []).append(answer)
            total.add(known[key], answer)
            tallies[name].add(known[key], answer)
    resolved = resolve(tasks, by_key)
    return {
        "round": number,
        "images": len(tasks),
        "answered": len(by_key),
        "left_out": dict(Counter(resolved.left_out.values())),
        "answers_to_no_image": unknown,
        **total.to_dict(),
        "annotators": {
            name: {"images": _num_assigned(tasks, name), **tally.to_dict()}
            for name, tally in tallies.items()
        },
        "doubles": _agreement(known, by_key),
        "gold": _gold(known, answers, facts),
    }


def _num_assigned(tasks: Iterable[Task], name: str) -> int:
    return sum(not task.annotators or name in task.annotators for task in tasks)


def _agreement(
    known: Mapping[TaskKey, Task], by_key: Mapping[TaskKey, Sequence[Row]]
) -> dict[str, Any]:
    """Agreement on images with several answers.

    `alpha_words`: Krippendorff's alpha of "kept or removed" over the words of the starting texts;
    `alpha_flags`: of "set or not" over the flags of each image; `words_shared`: 2 × common words /
    all words, in percent, mean over pairs of answers.
    """
    doubles = {key: rows for key, rows in by_key.items() if len(rows) > 1}
    words: list[tuple[bool, ...]] = []
    flags: list[tuple[bool, ...]] = []
    shared: list[float] = []
    for key, rows in doubles.items():
        kept = [kept_words(known[key].text, row["text"]) for row in rows]
        words += zip(*kept, strict=True)
        flags += [tuple(flag in row["flags"] for row in rows) for flag in FLAGS]
        for one, other in itertools.combinations(rows, 2):
            change = change_between(one["text"], other["text"])
            num_words = 2 * change.kept + change.removed + change.added
            shared.append(2 * change.kept / num_words if num_words else 1.0)
    return {
        "images": len(doubles),
        "alpha_words": _rounded(krippendorff_alpha(words)),
        "alpha_flags": _rounded(krippendorff_alpha(flags)),
        "words_shared": round(100 * statistics.fmean(shared), 1) if shared else None,
    }


def _gold(
    known: Mapping[TaskKey, Task],
    answers: Mapping[str, Mapping[TaskKey, Row]],
    facts: Mapping[TaskKey, Row],
) -> dict[str, Any]:
    """For gold images, scores of each annotator's texts and of the texts they started from."""
    found = {}
    for name, own in answers.items():
        before, after = Scores(), Scores()
        for key, answer in own.items():
            if key in facts and key in known:
                before.add(known[key].text, facts[key])
                after.add(answer["text"], facts[key])
        if after.num_captions:
            found[name] = {"answers": after.to_dict(), "started_from": before.to_dict()}
    return found


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 1) if whole else None


def _mean(total: int, count: int) -> float | None:
    return round(total / count, 1) if count else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
