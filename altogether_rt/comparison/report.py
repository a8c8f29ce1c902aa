"""The report of a study as plain data: what `--json` prints, and tables and plots are made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from altogether_rt import __version__
from altogether_rt.comparison.judgments import Judgment, judgments_of
from altogether_rt.comparison.ranking import Rank, rank_systems
from altogether_rt.comparison.results import (
    AnnotatorResult,
    Consistency,
    QuestionResult,
    Results,
    answers_by_image,
    compute_results,
    image_outcome,
)
from altogether_rt.comparison.study import Key, Study
from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError
from altogether_rt.statistics import DEFAULT_LEVEL, DEFAULT_RESAMPLES, Interval, SideBias
from altogether_rt.web.answers import answer_files, read_answers

__all__ = ["Report", "make_report"]


@dataclass(frozen=True)
class Report:
    """A study's figures, with the names of its systems."""

    study: Study
    key: Key
    results: Results
    ranks: Mapping[str, Sequence[Rank]]  # by question; empty for two systems
    unusable: Problems  # rows of answer files that are no answers
    judgments: Sequence[Judgment]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the systems, in the order in which they were given."""
        return tuple(system.name for system in self.key.systems)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: finite numbers or null."""
        names, results = self.names, self.results
        return {
            "study": self.study.info.id,
            "version": __version__,
            "systems": [
                {"name": s.name, "file": s.file, "sha256": s.sha256, "left_out": s.left_out}
                for s in self.key.systems
            ],
            "seed": self.key.seed,
            "tasks": len(self.study.tasks),
            "identical": len(self.key.identical),
            "unreadable_images": self.key.unreadable_images,
            "judgments": len(self.judgments),
            "rows_unusable": {"count": self.unusable.count, "examples": self.unusable.examples},
            "interval": f"{DEFAULT_LEVEL:.0%}, percentile bootstrap over images, "
            f"{DEFAULT_RESAMPLES} resamples; Wilson where all images agree",
            "pairs": [
                {
                    "first": names[pair.systems[0]],
                    "second": names[pair.systems[1]],
                    "planned": pair.progress.num_planned,
                    "judged": pair.progress.num_judged,
                    "identical": pair.progress.num_identical,
                    "questions": {q.question.id: _question(q) for q in pair.questions},
                }
                for pair in results.pairs
            ],
            "bradley_terry": {
                id_: [
                    {
                        "system": names[rank.system],
                        "strength": rank.strength,
                        "interval": _interval(rank.interval),
                        "win_rate": rank.win_rate,
                    }
                    for rank in ranks
                ]
                for id_, ranks in self.ranks.items()
            },
            "side_bias": {
                "all": _side(results.side),
                **{id_: _side(side) for id_, side in results.sides.items()},
            },
            "self_consistency": {
                id_: _consistency(found) for id_, found in results.consistency.items()
            },
            "median_seconds": results.median_seconds,
            "annotators": [_annotator(found) for found in results.annotators],
        }


def make_report(study: Study, key: Key) -> Report:
    """Reads all answers. Raises AltogetherError if there is nothing to report."""
    files = answer_files(study.answers_folder)
    rows = {name: read_answers(path) for name, path in files.items()}
    judgments, unusable = judgments_of(study, key, rows)
    results = compute_results(study, key, judgments)
    if not results.pairs:
        raise AltogetherError(
            f"nobody has answered yet in {study.folder}: "
            "run altogether-rt compare serve, then the report."
        )
    return Report(study, key, results, _ranks(study, key, judgments), unusable, judgments)


def _ranks(study: Study, key: Key, judgments: Sequence[Judgment]) -> dict[str, list[Rank]]:
    num_systems = len(key.systems)
    if num_systems < 3:
        return {}
    by_question: dict[str, dict[tuple[int, int], dict[str, float]]] = {}
    for pair, questions in answers_by_image(study, key, judgments).items():
        for id_, images in questions.items():
            outcomes = {name: image_outcome(answers) for name, answers in images.items()}
            by_question.setdefault(id_, {})[pair] = outcomes
    return {
        question.id: rank_systems(by_question[question.id], num_systems)
        for question in study.info.questions.questions
        if question.id in by_question
    }


def _question(result: QuestionResult) -> dict[str, Any]:
    return {
        "label": result.question.label,
        "text": result.question.text,
        "images": result.num_images,
        "identical": result.num_identical,
        "win": result.win,
        "tie": result.tie,
        "loss": result.loss,
        "win_rate": result.win_rate,
        "interval": _interval(result.interval),
        "answers": {
            "win": result.answers.wins,
            "tie": result.answers.ties,
            "loss": result.answers.losses,
        },
        "sign_test": {
            "wins": result.signs.wins,
            "losses": result.signs.losses,
            "p": result.p_value,
        },
        "alpha": result.alpha,
    }


def _interval(interval: Interval) -> list[float | None]:
    return [_finite(interval.low), _finite(interval.high)]


def _side(side: SideBias) -> dict[str, Any]:
    return {
        "left": side.tally.wins,
        "tie": side.tally.ties,
        "right": side.tally.losses,
        "left_share": _finite(side.left_share),
        "interval": _interval(side.interval),
        "p": side.p_value,
    }


def _consistency(found: Consistency) -> dict[str, Any]:
    return {
        "pairs": found.num_pairs,
        "same": found.num_same,
        "same_side": found.num_same_side,
        "share": found.share,
    }


def _annotator(found: AnnotatorResult) -> dict[str, Any]:
    return {
        "name": found.name,
        "tasks": found.num_tasks,
        "answered": found.num_answered,
        "skipped": found.num_skipped,
        "median_seconds": found.median_seconds,
        "side_bias": _side(found.side),
        "self_consistency": _consistency(found.consistency),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
