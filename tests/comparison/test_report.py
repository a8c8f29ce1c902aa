"""The report as data and as an image."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from altogether_rt.comparison.design import Split
from altogether_rt.comparison.judgments import judgments_of
from altogether_rt.comparison.plot import plot_report
from altogether_rt.comparison.ranking import rank_systems
from altogether_rt.comparison.report import make_report
from altogether_rt.comparison.results import (
    answers_by_image,
    compute_results,
    image_outcome,
)
from altogether_rt.errors import AltogetherError
from altogether_rt.statistics import bradley_terry, win_probabilities
from tests.comparison.studies import (
    Rows,
    answer_all,
    start_small,
    study_in_memory,
    write_answers,
    write_captions,
)

pytestmark = pytest.mark.lean

SVG = "{http://www.w3.org/2000/svg}"


def test_json_has_all_of_it_and_no_number_that_json_lacks(tmp_path: Path) -> None:
    study = start_small(tmp_path, 30, split=Split(("ann", "ben"), 0.5)).study
    sides = study.load_key().sides()

    def zebra(id_: str, question: str) -> str:
        if question == "named-entities":
            return "tie"
        return "left" if sides[id_].left == 0 else "right"

    rows: Rows = {name: answer_all(study, name, zebra) for name in ("ann", "ben")}
    write_answers(study, {**rows, "ann": [*rows["ann"], {"task": "?"}]})
    data = make_report(study, study.load_key()).to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    (pair,) = data["pairs"]
    assert (pair["first"], pair["second"]) == ("zebra", "walrus")
    alignment, entities = pair["questions"]["alignment"], pair["questions"]["named-entities"]
    assert (alignment["win"], alignment["win_rate"], alignment["images"]) == (1.0, 1.0, 30)
    assert alignment["answers"] == {"win": 45, "tie": 0, "loss": 0}  # 15 of 30 were judged twice
    assert alignment["sign_test"] == {"wins": 30, "losses": 0, "p": 2 * 0.5**30}
    assert entities["tie"] == 1.0
    assert alignment["alpha"] is entities["alpha"] is None  # all say the same: chance would too
    assert data["side_bias"]["named-entities"]["left_share"] is None
    assert data["side_bias"]["all"]["left"] + data["side_bias"]["all"]["right"] == 45
    assert data["self_consistency"]["alignment"]["share"] == 1.0
    assert data["rows_unusable"]["count"] == 1
    assert [a["name"] for a in data["annotators"]] == ["ann", "ben"]
    assert data["bradley_terry"] == {}
    assert data["systems"][0]["file"].endswith("zebra.jsonl")


def test_nothing_to_report(tmp_path: Path) -> None:
    study = start_small(tmp_path, 3).study
    with pytest.raises(AltogetherError, match="nobody has answered yet"):
        make_report(study, study.load_key())


def test_captions_that_are_all_identical_are_ties_without_an_annotator(tmp_path: Path) -> None:
    write_captions(tmp_path / "same.jsonl", "a boat number", 4)
    captions = tuple(tmp_path / name for name in ("zebra.jsonl", "same.jsonl"))
    start_small(tmp_path, 4)
    from altogether_rt.comparison.questions import load_questions
    from altogether_rt.comparison.start import StartOptions, start_study

    options = StartOptions(captions, tmp_path / "images", tmp_path / "same", load_questions())
    study = start_study(options).study
    assert study.tasks == ()
    report = make_report(study, study.load_key())
    (pair,) = report.results.pairs
    assert {(q.tie, q.num_images, q.num_identical) for q in pair.questions} == {(1.0, 4, 4)}
    plot_report(report)


def test_bars_are_as_long_as_the_shares_they_show(tmp_path: Path) -> None:
    study = start_small(tmp_path, 40, names=("<a> & b", "c" * 60)).study
    rng = random.Random(1)
    rows = answer_all(study, "ann", lambda *_: rng.choice(["left", "tie", "tie", "right"]))
    write_answers(study, {"ann": rows})
    report = make_report(study, study.load_key())
    root = ElementTree.fromstring(plot_report(report))
    assert root.find(f"{SVG}title").text == f"Side by side: <a> & b, {'c' * 60}"  # type: ignore[union-attr]
    (group,) = root.findall(f"{SVG}g")
    bars = [rect for rect in group.iter(f"{SVG}rect") if rect.get("height") == "28"]
    whiskers = [path.get("d", "") for path in group.iter(f"{SVG}path")]
    dots = [float(circle.get("cx", "0")) for circle in group.iter(f"{SVG}circle")]
    (pair,) = report.results.pairs
    assert len(bars) == 3 * len(pair.questions) == 9
    for index, found in enumerate(pair.questions):
        of_question = bars[3 * index : 3 * index + 3]
        widths = [float(bar.get("width", "0")) / 480 for bar in of_question]
        assert widths == pytest.approx([found.win, found.tie, found.loss], abs=1e-4)
        start = float(of_question[0].get("x", "0"))
        begins = [(float(bar.get("x", "0")) - start) / 480 for bar in of_question]
        assert begins == pytest.approx([0, found.win, found.win + found.tie], abs=1e-4)
        assert (dots[index] - start) / 480 == pytest.approx(found.win_rate, abs=1e-4)
        drawn = re.match(r"M([\d.]+) [\d.]+H([\d.]+)M", whiskers[index])
        assert drawn is not None
        low, high = float(drawn[1]), float(drawn[2])
        assert (low - start) / 480 == pytest.approx(found.interval.low, abs=1e-4)
        assert (high - start) / 480 == pytest.approx(found.interval.high, abs=1e-4)


def test_a_plot_has_its_rows_below_each_other_and_its_axis_under_the_bars(tmp_path: Path) -> None:
    study = start_small(tmp_path, 40).study
    write_answers(study, {"ann": answer_all(study, "ann", lambda *_: "left")})
    report = make_report(study, study.load_key())
    (pair,) = report.results.pairs
    questions = [
        dataclasses.replace(q, p_value=p)
        for q, p in zip(pair.questions, (0.02, 9e-4, 1e-3), strict=True)
    ]
    pairs = (dataclasses.replace(pair, questions=tuple(questions)), pair)
    results = dataclasses.replace(report.results, pairs=pairs)
    root = ElementTree.fromstring(plot_report(dataclasses.replace(report, results=results)))
    groups = root.findall(f"{SVG}g")
    tops = [int(group.get("transform", "").removesuffix(")").split()[1]) for group in groups]
    height = int(root.get("height", "0"))
    assert tops == [0, height // 2]
    for group in groups:
        bars = [rect for rect in group.iter(f"{SVG}rect") if rect.get("height") == "28"]
        rows = sorted({int(bar.get("y", "0")) for bar in bars})
        assert len(rows) == 3
        assert rows[2] - rows[1] == rows[1] - rows[0] > 28 + 9 + 4  # a bar and the whisker below it
        legend = [rect for rect in group.iter(f"{SVG}rect") if rect.get("height") == "12"]
        places = [float(rect.get("x", "0")) for rect in legend]
        start = min(float(bar.get("x", "0")) for bar in bars)
        assert places == [start, start + 160, start + 320]  # of a bar of 480
        ticks = {
            text.text: text for text in group.iter(f"{SVG}text") if text.get("class") == "tick"
        }
        for percent in (0, 25, 50, 75, 100):
            tick = ticks.pop(f"{percent} %")
            assert float(tick.get("x", "0")) == start + 4.8 * percent
            assert rows[2] + 28 < float(tick.get("y", "0")) < height // 2
        assert not ticks
        lines = [line for line in group.iter(f"{SVG}line") if line.get("y1")]
        assert {line.get("x1") == line.get("x2") for line in lines} == {True}
        assert all(int(line.get("y1", "0")) < rows[0] for line in lines)
        assert all(int(line.get("y2", "0")) > rows[2] + 28 for line in lines)
        dots = [float(circle.get("cy", "0")) for circle in group.iter(f"{SVG}circle")]
        assert all(row + 28 < dot < row + 58 for row, dot in zip(rows, dots, strict=True))
        whole = [text for text in group.iter(f"{SVG}text") if "images, p" in (text.text or "")]
        assert all(start + 480 < float(text.get("x", "0")) for text in whole)
        for row, text in zip(rows, whole, strict=True):
            assert row < float(text.get("y", "0")) < row + 58
        if group is groups[0]:
            assert [(text.text or "").split("p ")[1] for text in whole] == [
                "= 0.020",
                "< 0.001",
                "= 0.001",
            ]


def test_several_systems_are_ranked_as_they_were_made() -> None:
    """Strengths 4 : 2 : 1, no ties; every strength within its interval."""
    names = ("strong", "middling", "weak")
    strengths = (4.0, 2.0, 1.0)
    captions = {f"{i:04}.png": [f"{name} {i}" for name in names] for i in range(900)}
    study, key = study_in_memory(captions, names, repeat_share=0.0)
    sides, rng = key.sides(), random.Random(7)

    def choose(id_: str, _: str) -> str:
        left, right = strengths[sides[id_].left], strengths[sides[id_].right]
        return "left" if rng.random() < left / (left + right) else "right"

    judgments, _ = judgments_of(study, key, {"ann": answer_all(study, "ann", choose)})
    outcomes = {
        pair: {name: image_outcome(a) for name, a in questions["alignment"].items()}
        for pair, questions in answers_by_image(study, key, judgments).items()
    }
    assert sorted(outcomes) == [(0, 1), (0, 2), (1, 2)]
    assert [len(outcomes[pair]) for pair in sorted(outcomes)] == [300, 300, 300]
    ranks = rank_systems(outcomes, 3)
    assert [rank.system for rank in ranks] == [0, 1, 2]
    for rank in ranks:
        assert strengths[rank.system] / 2 in rank.interval  # of geometric mean 1
    assert sum(rank.win_rate for rank in ranks) == pytest.approx(1.5)
    # Against the matrix of wins, counted here.
    wins = [[0.0] * 3 for _ in range(3)]
    for (first, second), images in outcomes.items():
        for value in images.values():
            wins[first][second] += value
            wins[second][first] += 1 - value
    expected = bradley_terry(wins, prior=1.0)
    assert [rank.strength for rank in ranks] == pytest.approx(list(expected))
    rate = (win_probabilities(expected)[0, 1] + win_probabilities(expected)[0, 2]) / 2
    assert ranks[0].win_rate == pytest.approx(rate)
    assert len(compute_results(study, key, judgments).pairs) == 3
