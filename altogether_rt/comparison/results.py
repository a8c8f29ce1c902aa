"""From judgments to figures: which system wins, how certain that is, how reliable annotators are.

Every image counts once, however many people judged it: its outcome is the mean of their answers.
The interval is a bootstrap over images, and the sign test takes one sign an image. Pairs
repeated with sides swapped are used to test the annotators, and for nothing else.

Identical captions are ties that nobody is asked about. While a study is unfinished, only the share
of them counts that has been judged of the others; all of them beside a few judged pairs would say
that the systems are nearly equal.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from altogether_rt.comparison.judgments import Judgment, outcome
from altogether_rt.comparison.questions import Question
from altogether_rt.comparison.study import Key, Study
from altogether_rt.statistics import (
    Interval,
    SideBias,
    Tally,
    krippendorff_alpha,
    mean_interval,
    side_bias,
    wilson_interval,
)

__all__ = [
    "AnnotatorResult",
    "Consistency",
    "PairResult",
    "Progress",
    "QuestionResult",
    "Results",
    "answers_by_image",
    "compute_results",
    "image_outcome",
]


@dataclass(frozen=True)
class QuestionResult:
    """One question about two systems, seen from the first. Shares are of images."""

    question: Question
    num_images: int
    num_identical: int  # images with identical captions that count, which are ties
    win: float
    tie: float
    loss: float
    answers: Tally  # all answers that annotators gave
    interval: Interval  # of the win rate
    signs: Tally  # images whose outcome is above, at or below one half
    p_value: float  # sign test
    alpha: float | None  # Krippendorff's; None if no image was judged by two

    @property
    def win_rate(self) -> float:
        """Wins and half of the ties, of all images."""
        return self.win + self.tie / 2


@dataclass(frozen=True)
class Progress:
    """How far two systems have been compared. Counts are of images; repeats are left out."""

    num_planned: int = 0  # to be judged
    num_judged: int = 0  # by somebody, "cannot judge" included
    num_identical: int = 0

    @property
    def num_counted(self) -> int:
        """Identical captions that count: the share that has been judged of the others."""
        if not self.num_planned:
            return self.num_identical
        return round(self.num_identical * self.num_judged / self.num_planned)


@dataclass(frozen=True)
class PairResult:
    """Two systems and what was asked about them."""

    systems: tuple[int, int]
    questions: tuple[QuestionResult, ...]
    progress: Progress


@dataclass(frozen=True)
class Consistency:
    """Answers to the same pair with sides swapped."""

    num_pairs: int = 0
    num_same: int = 0  # the same verdict both times
    num_same_side: int = 0  # the same side both times: another verdict

    @property
    def share(self) -> float | None:
        return self.num_same / self.num_pairs if self.num_pairs else None


@dataclass(frozen=True)
class AnnotatorResult:
    """How one annotator worked."""

    name: str
    num_tasks: int
    num_answered: int
    num_skipped: int  # of the answered ones
    median_seconds: float | None
    side: SideBias
    consistency: Consistency


@dataclass(frozen=True)
class Results:
    """Everything in a report except the ranking of three or more systems."""

    pairs: tuple[PairResult, ...]
    sides: Mapping[str, SideBias]  # by question
    side: SideBias  # over all questions; see _side_bias
    consistency: Mapping[str, Consistency]  # by question
    annotators: tuple[AnnotatorResult, ...]
    median_seconds: float | None


def compute_results(study: Study, key: Key, judgments: Sequence[Judgment]) -> Results:
    """All figures. Pairs and questions without a judgment are left out."""
    questions = study.info.questions.questions
    answers = answers_by_image(study, key, judgments)
    progress = _progress(study, key, judgments)
    pairs = []
    for pair in sorted(answers):
        of_pair = answers[pair]
        found = [_question_result(q, of_pair[q.id]) for q in questions if q.id in of_pair]
        pairs.append(PairResult(pair, tuple(found), progress[pair]))
    by_annotator: dict[str, list[Judgment]] = defaultdict(list)
    for judgment in judgments:
        by_annotator[judgment.annotator].append(judgment)
    ids = [question.id for question in questions]
    return Results(
        pairs=tuple(pairs),
        sides={id_: _side_bias(judgments, [id_]) for id_ in ids},
        side=_side_bias(judgments, ids),
        consistency={id_: _consistency(judgments, [id_]) for id_ in ids},
        annotators=tuple(
            _annotator(study, name, found, ids) for name, found in sorted(by_annotator.items())
        ),
        median_seconds=_median_seconds(judgments),
    )


def answers_by_image(
    study: Study, key: Key, judgments: Iterable[Judgment]
) -> dict[tuple[int, int], dict[str, dict[str, list[float]]]]:
    """Outcomes by pair of systems, question and image, in sorted order, one for each annotator.

    1: the pair's first system won, 0.5: a tie, 0: the second won. Images with identical captions
    have an empty list, as many of them as count so far (`Progress`); images that nobody could
    judge are absent, and repeats do not count.
    """
    judgments = list(judgments)
    listed: dict[tuple[tuple[int, int], str, str], list[float]] = defaultdict(list)
    for judgment in judgments:
        for id_ in judgment.choices if not judgment.side.is_repeat else ():
            value = outcome(judgment, id_)
            if value is not None:
                listed[judgment.pair, id_, judgment.task.file_name].append(value)
    progress, seen = _progress(study, key, judgments), Counter[tuple[int, int]]()
    for tie in key.identical:  # in the order in which images were drawn
        pair = _ascending(*tie.systems)
        seen[pair] += 1
        if seen[pair] <= progress[pair].num_counted:
            for asked in study.info.questions.asked(has_alt_text=tie.has_alt_text):
                listed[pair, asked.id, tie.file_name] = []
    found: dict[tuple[int, int], dict[str, dict[str, list[float]]]] = {}
    for (pair, id_, name), values in sorted(listed.items()):
        found.setdefault(pair, {}).setdefault(id_, {})[name] = values
    return found


def _progress(
    study: Study, key: Key, judgments: Iterable[Judgment]
) -> dict[tuple[int, int], Progress]:
    sides = key.sides()
    first = [task for task in study.tasks if not sides[task.id].is_repeat]
    planned = Counter(_ascending(sides[task.id].left, sides[task.id].right) for task in first)
    judged = {(j.task.id, j.pair) for j in judgments if not j.side.is_repeat}
    done = Counter(pair for _, pair in judged)
    identical = Counter(_ascending(*tie.systems) for tie in key.identical)
    return {
        pair: Progress(planned[pair], done[pair], identical[pair])
        for pair in planned.keys() | identical.keys()
    }


def _ascending(one: int, other: int) -> tuple[int, int]:
    return min(one, other), max(one, other)


def image_outcome(answers: Sequence[float]) -> float:
    """The mean of an image's answers; identical captions have none and are a tie."""
    return sum(answers) / len(answers) if answers else 0.5


def _question_result(question: Question, by_image: Mapping[str, Sequence[float]]) -> QuestionResult:
    answered = [answers for answers in by_image.values() if answers]
    num, num_identical = len(by_image), len(by_image) - len(answered)
    win, tie, loss = (
        sum(answers.count(value) / len(answers) for answers in answered) / num
        for value in (1.0, 0.5, 0.0)
    )
    outcomes = np.array([image_outcome(answers) for answers in by_image.values()])
    signs = Tally.of((np.sign(outcomes - 0.5) / 2 + 0.5).tolist())
    return QuestionResult(
        question=question,
        num_images=num,
        num_identical=num_identical,
        win=win,
        tie=tie + num_identical / num,
        loss=loss,
        answers=Tally.of(value for answers in answered for value in answers),
        interval=_interval(outcomes),
        signs=signs,
        p_value=signs.sign_test(),
        alpha=krippendorff_alpha(answered),
    )


def _interval(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Interval:
    """Of the mean. If all images agree, so do all resamples: Wilson's interval is used then."""
    if np.ptp(values) == 0:
        return wilson_interval(float(values.sum()), len(values))
    return mean_interval(values)


def _side_bias(judgments: Iterable[Judgment], questions: Sequence[str]) -> SideBias:
    """From first showings. Answers about one pair are not independent, so each judgment counts
    once: for the side that got the majority of its questions."""
    leaning: Counter[int] = Counter()
    for judgment in judgments:
        chosen = [judgment.choices[id_] for id_ in questions if id_ in judgment.choices]
        if chosen and not judgment.side.is_repeat:
            difference = chosen.count("left") - chosen.count("right")
            leaning[(difference > 0) - (difference < 0)] += 1
    return side_bias(leaning[1], leaning[-1], leaning[0])


def _consistency(judgments: Iterable[Judgment], questions: Sequence[str]) -> Consistency:
    shown: dict[tuple[str, str, tuple[int, int]], dict[bool, Judgment]] = defaultdict(dict)
    for judgment in judgments:
        about = (judgment.annotator, judgment.task.file_name, judgment.pair)
        shown[about][judgment.side.is_repeat] = judgment
    num = same = same_side = 0
    for both in shown.values():
        if len(both) < 2:
            continue
        first, again = both[False], both[True]
        for id_ in questions:
            if id_ in first.choices and id_ in again.choices:
                num += 1
                same += outcome(first, id_) == outcome(again, id_)
                same_side += first.choices[id_] == again.choices[id_] != "tie"
    return Consistency(num, same, same_side)


def _annotator(
    study: Study, name: str, judgments: Sequence[Judgment], questions: Sequence[str]
) -> AnnotatorResult:
    return AnnotatorResult(
        name=name,
        num_tasks=len(study.tasks_of(name)),
        num_answered=len(judgments),
        num_skipped=sum(not judgment.choices for judgment in judgments),
        median_seconds=_median_seconds(judgments),
        side=_side_bias(judgments, questions),
        consistency=_consistency(judgments, questions),
    )


def _median_seconds(judgments: Iterable[Judgment]) -> float | None:
    seconds = [judgment.seconds for judgment in judgments]
    return statistics.median(seconds) if seconds else None
