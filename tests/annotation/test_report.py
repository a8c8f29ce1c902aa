"""The report's figures, each worked out beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from altogether_rt.annotation.report import Tally, is_too_fast, report_work
from altogether_rt.annotation.rounds import next_round
from altogether_rt.annotation.work import Task
from altogether_rt.evaluation.names import NameFinder
from altogether_rt.scenes.score import Scores
from tests.annotation.conftest import NUM_SCENES
from tests.annotation.people import answer_all, begin, serving, truth

pytestmark = pytest.mark.lean


def task(text: str) -> Task:
    return Task("a.png", "0" * 64, 1, 1, (), (text,), "alt-text")


def test_a_tally_counts() -> None:
    tally = Tally(NameFinder(["a boat called Marigold at Kew"]))
    tally.add(
        task("Marigold the blue boat at Kew"),
        {"text": "Marigold the red boat", "flags": ["cannot_verify"], "seconds": 5.0},
    )
    tally.add(task("two boxes"), {"text": "two boxes", "flags": [], "seconds": 0.5})
    tally.add(task(""), {"text": "", "flags": ["unusable"], "seconds": None})
    assert tally.to_dict() == {
        "answers": 3,
        "unchanged": 66.7,  # the second and the third
        "words_kept": 1.7,  # (3 + 2 + 0) / 3
        "words_added": 0.3,  # red
        "words_removed": 1.0,  # blue, at, kew
        "names": 2,
        "names_lost": 50.0,  # Kew
        "too_fast": 1,  # 0.5 s for two words, which take 1.2
        "seconds": 2.8,  # median of 5.0 and 0.5
        "flags": {"cannot_verify": 1, "private": 0, "unusable": 1},
    }
    assert Tally(NameFinder([])).to_dict()["unchanged"] is None


def test_names_of_joined_alt_texts_are_not_joined() -> None:
    joined = dataclasses.replace(
        task("a boat at Shailey Bay Shailey Bay"), alts=("a boat at Shailey Bay", "Shailey Bay")
    )
    tally = Tally(NameFinder(joined.alts))
    tally.add(joined, {"text": "A red boat at Shailey Bay.", "flags": [], "seconds": 9.0})
    assert (tally.names, tally.names_lost) == (1, 0)


def test_too_fast_is_a_second_and_a_tenth_for_each_word() -> None:
    ten = task("one two three four five six seven eight nine ten")
    assert is_too_fast(ten, {"seconds": 1.9})
    assert not is_too_fast(ten, {"seconds": 2.0})
    assert not is_too_fast(ten, {"seconds": None})


def test_agreement_and_facts(scenes: Path, tmp_path: Path) -> None:
    work, started = begin(
        scenes, tmp_path / "work", annotators=("anna", "ben"), overlap=1.0, gold=scenes
    )
    answer_all(work, "anna", truth(scenes, 3))
    with serving(work, "ben") as ben:
        ben.save_all(lambda shown: shown["text"] or "nothing")
        ben.save(0, "Private.", "private")
    report = report_work(work)
    assert report["guideline"] == work.guideline.stamp
    (found,) = report["rounds"]
    assert found["round"] == 2 and found["answered"] == found["images"] == NUM_SCENES
    assert found["answers"] == 2 * NUM_SCENES
    assert found["left_out"] == {"private": 1}
    assert found["annotators"]["anna"]["images"] == NUM_SCENES
    empty = sum(not task.text for task in started.tasks)
    assert found["annotators"]["ben"]["unchanged"] == round(
        100 * (NUM_SCENES - 1 - empty) / NUM_SCENES, 1
    )
    doubles = found["doubles"]
    assert doubles["images"] == NUM_SCENES
    assert 0 < doubles["words_shared"] < 100
    # 3 flags of 8 images, 48 answers, one of them set: a single disagreement among 24 pairs.
    # alpha = 1 - (n - 1) * disagreements / (set * unset) = 1 - 47 * 1 / (1 * 47) = 0
    assert doubles["alpha_flags"] == 0.0
    assert doubles["alpha_words"] is not None and doubles["alpha_words"] < 0.7
    gold = found["gold"]
    assert gold["anna"]["answers"]["visual_facts_right"] == 100.0
    assert gold["anna"]["answers"]["names_kept"] == 100.0
    before = Scores()
    facts = work.gold_facts()
    for one in started.tasks:
        before.add(one.text, facts[one.key])
    assert gold["anna"]["started_from"] == before.to_dict()
    assert gold["ben"]["answers"]["visual_facts_right"] < 100.0


def test_people_who_agree_have_an_alpha_of_one(scenes: Path, tmp_path: Path) -> None:
    work, _ = begin(scenes, tmp_path / "work", annotators=("anna", "ben"), overlap=1.0)
    for name in ("anna", "ben"):
        answer_all(work, name, truth(scenes, 3))
    (found,) = report_work(work)["rounds"]
    assert found["doubles"] == {
        "images": NUM_SCENES,
        "alpha_words": 1.0,
        "alpha_flags": None,  # nobody set one: nothing to tell apart
        "words_shared": 100.0,
    }
    assert found["gold"] == {}


def test_every_round_has_its_own_figures(scenes: Path, tmp_path: Path) -> None:
    work, _ = begin(scenes, tmp_path / "work")
    answer_all(work, "anna", truth(scenes, 2))
    next_round(work)
    with serving(work, "anna") as anna:
        anna.save(0, anna.get("task/0")["text"])
    second, third = report_work(work)["rounds"]
    assert (second["round"], second["answers"], second["unchanged"]) == (2, NUM_SCENES, 0.0)
    assert (third["round"], third["answers"], third["unchanged"]) == (3, 1, 100.0)
    assert third["answered"] == 1 and third["images"] == NUM_SCENES
