"""Figures of a study: worked out by hand, mirrored, and recovered from known preferences."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from altogether_rt.comparison.design import Split
from altogether_rt.comparison.judgments import Judgment, judgments_of, outcome
from altogether_rt.comparison.results import (
    Progress,
    QuestionResult,
    Results,
    answers_by_image,
    compute_results,
)
from altogether_rt.comparison.study import Key, Study
from altogether_rt.statistics import Tally
from tests.comparison.studies import (
    Preference,
    answer_all,
    plain_study,
    simulate,
    study_in_memory,
)

pytestmark = pytest.mark.lean

PREFERENCES: dict[str, Preference] = {
    "alignment": (0.5, 0.2, 0.3),
    "named-entities": (0.1, 0.75, 0.15),
    "alt-text": (0.8, 0.1, 0.1),
}


def question(results: Results, id_: str) -> QuestionResult:
    (pair,) = results.pairs
    return next(found for found in pair.questions if found.question.id == id_)


def verdicts(study: Study, key: Key, wanted: dict[str, dict[str, str]]) -> list[Judgment]:
    """Judgments of annotators who say "first", "tie" or "second" of each image, to all asked."""
    sides = key.sides()
    rows = {}
    for annotator, by_image in wanted.items():
        names = {task.id: task.file_name for task in study.tasks}

        def choose(
            task_id: str,
            _: str,
            names: dict[str, str] = names,
            by_image: dict[str, str] = by_image,
        ) -> str:
            verdict = by_image[names[task_id]]
            left = "first" if sides[task_id].left == 0 else "second"
            return "tie" if verdict == "tie" else "left" if verdict == left else "right"

        given = answer_all(study, annotator, choose_or_skip(choose, names, by_image))
        rows[annotator] = [row for row in given if None not in row["choices"].values()]
    judgments, problems = judgments_of(study, key, rows)
    assert not problems
    return judgments


def choose_or_skip(choose: Any, names: dict[str, str], by_image: dict[str, str]) -> Any:
    return lambda task, q: choose(task, q) if names[task] in by_image else None


def test_figures_by_hand() -> None:
    """Four images, one of them with identical captions; two annotators, one left one out."""
    captions = {"a": ("1", "2"), "b": ("3", "4"), "c": ("5", "6"), "d": ("7", "7")}
    study, key = study_in_memory(captions, repeat_share=0.0)
    judgments = verdicts(
        study,
        key,
        {
            "ann": {"a": "first", "b": "first", "c": "second"},
            "ben": {"a": "first", "b": "tie"},
        },
    )
    results = compute_results(study, key, judgments)
    found = question(results, "alignment")
    # a: win. b: a win and a tie, half each. c: loss. d: tie, not asked.
    assert (found.num_images, found.num_identical) == (4, 1)
    assert (found.win, found.tie, found.loss) == (1.5 / 4, 1.5 / 4, 1 / 4)
    assert found.win_rate == (1 + 0.75 + 0 + 0.5) / 4
    assert dataclasses.astuple(found.answers) == (3, 1, 1)
    # b leans to the first: two images to one.
    assert dataclasses.astuple(found.signs) == (2, 1, 1)
    assert found.p_value == 1.0  # 2 against 1 of a fair coin
    # Answers of a: first, first; of b: first, tie. Values that can be paired: 3 first, 1 tie.
    # Observed disagreement 2/4, expected 2 * 3 * 1 / (4 * 3) = 1/2.
    assert found.alpha == pytest.approx(0.0, abs=1e-15)
    assert found.interval.low < found.win_rate < found.interval.high
    assert [a.num_answered for a in results.annotators] == [3, 2]
    assert results.median_seconds == 10.0
    assert outcome(judgments[0], "no such question") is None


def test_identical_captions_count_in_proportion_while_a_study_is_unfinished() -> None:
    """Otherwise twelve ties beside one judged pair of four would say: nearly equal."""
    different = {f"{i}": (f"one {i}", f"two {i}") for i in range(4)}
    captions = different | {f"same {i}": ("x", "x") for i in range(12)}
    study, key = study_in_memory(captions, repeat_share=0.0)
    first = study.tasks[0].file_name
    results = compute_results(study, key, verdicts(study, key, {"ann": {first: "first"}}))
    found = question(results, "alignment")
    # One of four pairs, so three of the twelve: one win and three ties.
    assert (found.num_images, found.num_identical) == (4, 3)
    assert (found.win, found.tie, found.loss) == (1 / 4, 3 / 4, 0)
    assert results.pairs[0].progress == Progress(4, 1, 12)
    # "Cannot judge" is no missing judgment: the other three are left out, and all ties count.
    rows = [{"task": task.id, "skipped": True, "seconds": 1.0} for task in study.tasks[1:]]
    skipped, _ = judgments_of(study, key, {"ben": rows})
    judged = verdicts(study, key, {"ann": {first: "first"}})
    found = question(compute_results(study, key, [*judged, *skipped]), "alignment")
    assert (found.num_images, found.num_identical, found.win) == (13, 12, 1 / 13)


def test_what_the_alt_text_question_is_not_asked_about() -> None:
    captions = {"a": ("1", "2"), "b": ("3", "3")}
    study, key = study_in_memory(captions, repeat_share=0.0, alts=())
    results = compute_results(study, key, verdicts(study, key, {"ann": {"a": "first"}}))
    (pair,) = results.pairs
    assert [q.question.id for q in pair.questions] == ["alignment", "named-entities"]


def test_agreement_is_that_of_the_package_krippendorff() -> None:
    """`krippendorff` 0.9.0 on the verdicts below, nominal."""
    verdict_of, matrix = random_verdicts()
    study, key = plain_study(40, repeat_share=0.0)
    results = compute_results(study, key, verdicts(study, key, verdict_of))
    alpha = question(results, "alignment").alpha
    assert alpha == pytest.approx(ALPHA, abs=1e-12)
    krippendorff = pytest.importorskip("krippendorff", reason="needs the package krippendorff")
    expected = krippendorff.alpha(reliability_data=matrix, level_of_measurement="nominal")
    assert alpha == pytest.approx(expected, abs=1e-12)


#: What the package gives for them.
ALPHA = 0.4276315789473685


def random_verdicts() -> tuple[dict[str, dict[str, str]], list[list[float]]]:
    """Three annotators who follow a common verdict most of the time and leave some out."""
    rng = np.random.default_rng(11)
    truth = rng.integers(0, 3, 40)
    verdict_of: dict[str, dict[str, str]] = {}
    matrix = []
    for annotator in ("ann", "ben", "cleo"):
        said = np.where(rng.random(40) < 0.6, truth, rng.integers(0, 3, 40))
        left_out = rng.random(40) < 0.25
        matrix.append(
            [float("nan") if out else float(v) for v, out in zip(said, left_out, strict=True)]
        )
        verdict_of[annotator] = {
            f"{i:04}.png": ("first", "tie", "second")[said[i]] for i in range(40) if not left_out[i]
        }
    return verdict_of, matrix


@pytest.mark.slow
def test_known_preferences_are_recovered_within_the_interval() -> None:
    """In 93 of 100 studies, on average over three preferences; half of the images are judged by
    two, and everybody takes the left side a tenth of the time whatever stands there."""
    split, left_bias = Split(("ann", "ben"), overlap=0.5), 0.1
    num_inside = dict.fromkeys(PREFERENCES, 0)
    for seed in range(100):
        study, key = plain_study(300, seed=seed, split=split)
        judgments = simulate(
            study, key, split.annotators, PREFERENCES, seed=seed, left_bias=left_bias
        )
        results = compute_results(study, key, judgments)
        for id_, (win, tie, _) in PREFERENCES.items():
            # Sides are drawn: who takes the left whatever it says gives half to each.
            truth = (1 - left_bias) * (win + tie / 2) + left_bias / 2
            num_inside[id_] += truth in question(results, id_).interval
    assert sum(num_inside.values()) / len(PREFERENCES) >= 93, num_inside
    assert sum(num_inside.values()) / len(PREFERENCES) < 99, num_inside  # nor wider than it says


def test_swapping_the_systems_mirrors_the_report() -> None:
    captions: dict[str, Sequence[str | None]] = {
        f"{i:03}.png": (f"one {i}", f"two {i}" if i % 9 else f"one {i}") for i in range(120)
    }
    swapped = {name: (texts[1], texts[0]) for name, texts in captions.items()}
    split = Split(("ann", "ben"), overlap=0.5)
    study, key = study_in_memory(captions, seed=4, split=split)
    other_study, other_key = study_in_memory(swapped, ("second", "first"), seed=4, split=split)
    # Both studies show the same, so the same answers fit both.
    assert [(t.left, t.right) for t in study.tasks] == [
        (t.left, t.right) for t in other_study.tasks
    ]
    judgments = simulate(study, key, split.annotators, PREFERENCES, seed=1, left_bias=0.1)
    other_ids = {a.id: b.id for a, b in zip(study.tasks, other_study.tasks, strict=True)}
    rows: dict[str, list[dict[str, Any]]] = {}
    for j in judgments:
        row = {"task": other_ids[j.task.id], "choices": j.choices, "seconds": j.seconds}
        rows.setdefault(j.annotator, []).append(row)
    others, _ = judgments_of(other_study, other_key, rows)
    one, two = (
        compute_results(study, key, judgments),
        compute_results(other_study, other_key, others),
    )
    assert (one.side, one.sides, one.consistency) == (two.side, two.sides, two.consistency)
    assert one.annotators == two.annotators
    for id_ in PREFERENCES:
        a, b = question(one, id_), question(two, id_)
        assert (a.win, a.tie, a.loss) == (b.loss, b.tie, b.win)
        assert a.answers == b.answers.swapped
        assert (a.signs, a.p_value, a.alpha) == (b.signs.swapped, b.p_value, b.alpha)
        assert (a.num_images, a.num_identical) == (b.num_images, b.num_identical) == (120, 14)
        mirrored = (1 - b.interval.high, 1 - b.interval.low)
        assert a.interval == pytest.approx(mirrored, abs=1e-12)
        assert a.win_rate == pytest.approx(1 - b.win_rate, abs=1e-12)


def test_who_always_takes_the_left_is_found_out() -> None:
    study, key = plain_study(200)
    rows = {"ann": answer_all(study, "ann", lambda *_: "left")}
    judgments, _ = judgments_of(study, key, rows)
    results = compute_results(study, key, judgments)
    assert results.side.left_share == 1.0
    assert results.side.p_value < 1e-12
    for found in results.consistency.values():
        assert (found.num_pairs, found.num_same, found.num_same_side) == (20, 0, 20)
    signs = question(results, "alignment").signs
    assert (signs.total, signs.ties) == (200, 0)  # the second showing decides nothing
    # The sides were drawn, so neither system gains by it.
    assert 0.5 in question(results, "alignment").interval


def test_who_decides_by_the_captions_says_the_same_again() -> None:
    study, key = plain_study(100)
    sides = key.sides()
    rows = {
        "ann": answer_all(study, "ann", lambda id_, _: "left" if sides[id_].left == 0 else "right")
    }
    judgments, _ = judgments_of(study, key, rows)
    results = compute_results(study, key, judgments)
    for found in results.consistency.values():
        assert (found.num_pairs, found.num_same, found.num_same_side) == (10, 10, 0)
    found_question = question(results, "alignment")
    assert found_question.num_images == 100  # what came again counts once
    assert found_question.answers.wins == 100
    # All agree: resampling knows no doubt, Wilson does. 100 of 100: z² / (100 + z²).
    assert found_question.interval.low == pytest.approx(1 - 1.96**2 / (100 + 1.96**2), abs=1e-4)
    assert found_question.interval.high == 1.0


def test_rows_that_are_no_answers_are_counted_and_the_last_answer_of_a_task_stands() -> None:
    study, key = plain_study(3, repeat_share=0.0)
    task = study.tasks[0]
    ids = [q.id for q in study.questions_of(task)]

    def row(choice: str, **changed: Any) -> dict[str, Any]:
        whole = {"task": task.id, "choices": dict.fromkeys(ids, choice), "seconds": 1}
        return {**whole, **changed}

    bad = [
        row("left", task="another"),
        row("left", task=3),
        row("left", seconds=True),
        row("left", seconds=float("nan")),
        row("left", seconds=-1),
        row("left", seconds=10**400),
        row("middle"),
        row("left", choices={ids[0]: "left"}),
        row("left", choices="left"),
    ]
    first = row("left", seconds=0)
    rows = {"ann": [first, *bad, row("tie")], "ben": [row("left"), row("", skipped=True)]}
    judgments, problems = judgments_of(study, key, rows)
    assert problems.count == len(bad)
    assert problems.examples[0] == "row 2 of ann: not a task of this study"
    assert [j.choices.get(ids[0]) for j in judgments] == ["tie", None]
    results = compute_results(study, key, judgments)
    assert [a.num_skipped for a in results.annotators] == [0, 1]
    assert question(results, ids[0]).num_images == 1
    assert results.side.tally == Tally(ties=1)  # what was skipped is no tie


def test_no_answers() -> None:
    study, key = plain_study(3)
    assert answers_by_image(study, key, []) == {}
    results = compute_results(study, key, [])
    assert (results.pairs, results.annotators, results.median_seconds) == ((), (), None)
