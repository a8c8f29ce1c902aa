"""From round to round: which text goes on, and what `train` then gets."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.annotation.assign import assign
from altogether_rt.annotation.exporting import training_rows
from altogether_rt.annotation.rounds import next_round, resolve
from altogether_rt.annotation.session import Session
from altogether_rt.annotation.work import Task
from altogether_rt.data.file_hash import file_hash
from altogether_rt.errors import AltogetherError
from altogether_rt.scenes.dataset import read_references
from tests.annotation.conftest import NUM_SCENES
from tests.annotation.people import answer_all, begin, serving, truth

pytestmark = pytest.mark.lean

TASK = Task("a.png", "0" * 64, 1, 1, (), ("a boat",), "alt-text")


def answer(annotator: str, text: str, *flags: str) -> dict[str, Any]:
    return {"file_name": "a.png", "annotator": annotator, "text": text, "flags": list(flags)}


@pytest.mark.parametrize(
    ("answers", "chosen"),
    [
        ([answer("anna", "a boat")], "anna"),
        # Ben's needs 1 word to become each of the others, theirs need 1 and 2.
        (
            [
                answer("anna", "a red boat"),
                answer("ben", "a red boat here"),
                answer("cleo", "a big red boat here"),
            ],
            "ben",
        ),
        # Of two, the longer in words.
        ([answer("anna", "a boat"), answer("ben", "a red boat")], "ben"),
        ([answer("anna", "a red boat"), answer("ben", "a boat")], "anna"),
    ],
)
def test_which_of_several_answers_counts(answers: list[dict[str, Any]], chosen: str) -> None:
    resolved = resolve([TASK], {TASK.key: answers})
    assert resolved.texts[TASK.key]["annotator"] == chosen
    assert not resolved.left_out and not resolved.unanswered


def test_a_majority_wins_and_equal_answers_are_drawn() -> None:
    answers = [answer("anna", "x y z"), answer("ben", "a b"), answer("cleo", "a b")]
    assert resolve([TASK], {TASK.key: answers}).texts[TASK.key]["text"] == "a b"
    authors: Counter[str] = Counter()
    for index in range(200):
        task = dataclasses.replace(TASK, file_name=f"{index}.png")
        equal = [answer(name, "a b") | {"file_name": task.file_name} for name in ("anna", "ben")]
        first = resolve([task], {task.key: equal}).texts[task.key]
        assert first == resolve([task], {task.key: equal[::-1]}).texts[task.key]
        authors[first["annotator"]] += 1
    assert 70 < authors["anna"] < 130  # 100 ± 4 standard deviations of 7


def test_every_two_annotators_share_as_many_images() -> None:
    tasks = [dataclasses.replace(TASK, file_name=f"{index}.png") for index in range(60)]
    assigned = assign(tasks, ("anna", "ben", "cleo", "dave"), 1.0, 3)
    assert [task.file_name for task in assigned] == [task.file_name for task in tasks]
    pairs = Counter(frozenset(task.annotators) for task in assigned)
    assert len(pairs) == 6 and set(pairs.values()) == {10}


def test_a_flag_of_anybody_keeps_a_image_back() -> None:
    answers = [answer("anna", "a boat"), answer("ben", "a boat", "private")]
    resolved = resolve([TASK], {TASK.key: answers})
    assert resolved.left_out == {TASK.key: "private"} and not resolved.texts
    answers = [answer("anna", "a boat", "cannot_verify")]
    assert resolve([TASK], {TASK.key: answers}).texts
    assert resolve([TASK], {}).unanswered == [TASK]


def test_each_round_starts_from_the_one_before(scenes: Path, tmp_path: Path) -> None:
    names = ("anna", "ben", "cleo")
    work, _ = begin(scenes, tmp_path / "work", annotators=names, overlap=0.25)
    for name in names:
        answer_all(work, name, truth(scenes, 2))
    number, tasks, _ = next_round(work)
    (work.folder / "rounds" / ".4.0123456789abcdef.tmp").mkdir()  # of a run that was killed
    (work.folder / "rounds" / "notes").mkdir()
    assert number == 3 == work.current_number
    references = read_references(scenes / "references.jsonl")
    for task in tasks:
        assert task.rounds == tuple(references[task.file_name]["rounds"][:2])
        assert task.author not in task.annotators and task.author in names
    assert sum(len(task.annotators) == 2 for task in tasks) == NUM_SCENES // 4
    with serving(work, "anna") as anna:
        shown = anna.get("task/0")
        assert shown["started_from"] == "round" and shown["answer"] is None
        assert shown["text"] == references[shown["file_name"]]["rounds"][1]
    for name in names:
        answer_all(work, name, truth(scenes, 3))
    rows = training_rows(work, tmp_path / "out" / "train.jsonl").rows
    assert len(rows) == NUM_SCENES
    for row in rows:
        reference = references[Path(row["file_name"]).name]
        assert row["file_name"].startswith("../scenes/")
        assert row["image_hash"] == file_hash(scenes / Path(row["file_name"]).name)
        assert row["alts"] == reference["alts"]
        expected = reference["rounds"]
        assert row["rounds"] == (expected if len(expected) == 3 else [*expected, expected[-1]])
        assert len(row["annotators"]) == 2 and row["started_from"] == "alt-text"


def test_unfinished_rounds_are_not_closed_by_mistake(scenes: Path, tmp_path: Path) -> None:
    work, _ = begin(scenes, tmp_path / "work")
    with pytest.raises(AltogetherError, match=r"8 of 8 images lack an answer .* 0000\.png"):
        next_round(work)
    with pytest.raises(AltogetherError, match="no answer that another"):
        next_round(work, partial=True)
    with serving(work, "anna") as anna:
        for index in range(5):
            flags = {0: ["private"], 2: ["cannot_verify"]}.get(index, [])
            anna.save(index, f"text {index}", *flags)
    said = r"3 of 8 .* 0005\.png .* --partial, without the 3 that nobody has answered\."
    with pytest.raises(AltogetherError, match=said):
        next_round(work)
    number, tasks, resolved = next_round(work, partial=True)
    assert (number, len(tasks), len(resolved.left_out), len(resolved.unanswered)) == (3, 4, 1, 3)
    export = training_rows(work, tmp_path / "train.jsonl")
    assert export.left_out == {"private": 1, "without an answer": 3}
    assert [row["rounds"][-1] for row in export.rows] == [f"text {i}" for i in range(1, 5)]
    assert [row["flags"] for row in export.rows] == [[], ["cannot_verify"], [], []]


def test_two_answers_are_waited_for_where_two_were_wanted(scenes: Path, tmp_path: Path) -> None:
    work, _ = begin(scenes, tmp_path / "work", annotators=("anna", "ben"), overlap=1.0)
    answer_all(work, "anna", lambda task: "text")
    with pytest.raises(AltogetherError, match=r"8 of 8 .* 2 \(ben: 8\), 0000\.png .* --partial\.$"):
        next_round(work)
    assert len(next_round(work, partial=True)[1]) == NUM_SCENES


def test_a_flag_in_a_later_round_keeps_a_image_out_of_training(
    scenes: Path, tmp_path: Path
) -> None:
    work, _ = begin(scenes, tmp_path / "work")
    answer_all(work, "anna", lambda task: "second")
    next_round(work)
    with serving(work, "anna") as anna:
        anna.save(3, "third", "unusable")
        anna.save(4, "third")
    export = training_rows(work, tmp_path / "train.jsonl")
    assert export.left_out == {"unusable": 1}
    last = {Path(row["file_name"]).name: row["rounds"][1:] for row in export.rows}
    assert last.pop("0004.png") == ["second", "third"]
    assert set(map(tuple, last.values())) == {("second",)}


def test_no_round_is_opened_while_somebody_answers(scenes: Path, tmp_path: Path) -> None:
    work, _ = begin(scenes, tmp_path / "work")
    answer_all(work, "anna", lambda task: "text")
    with (
        Session(work, "ben"),
        pytest.raises(AltogetherError, match="is being served: end annotate serve first"),
    ):
        next_round(work)
    with work.locked(alone=True), pytest.raises(AltogetherError, match="is being opened"):
        Session(work, "ben")
    next_round(work)


def test_changed_images_are_named_and_open_no_round(scenes: Path, tmp_path: Path) -> None:
    work, _ = begin(scenes, tmp_path / "work")
    answer_all(work, "anna", lambda task: "text")
    (scenes / "0001.png").write_bytes(b"other")
    (scenes / "0004.png").unlink()
    with pytest.raises(AltogetherError, match=r"0001\.png has changed .*1 more: 0004\.png"):
        next_round(work)
    assert work.current_number == 2
    export = training_rows(work, tmp_path / "train.jsonl")
    assert export.left_out == {"changed": 2} and len(export.rows) == NUM_SCENES - 2
    assert "0001.png has changed" in str(export.changed)


def test_other_annotators_may_go_on(scenes: Path, tmp_path: Path) -> None:
    work, _ = begin(scenes, tmp_path / "work", annotators=("anna", "ben"), overlap=0.5)
    for name in ("anna", "ben"):
        answer_all(work, name, lambda task: "text")
    next_round(work, annotators=["cleo"])  # of whom no overlap can be asked
    assert {task.annotators for task in work.round().tasks} == {("cleo",)}
    assert work.round().overlap == 0.0


def test_images_for_their_facts_are_never_exported(scenes: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (scenes / "0007.png").rename(photos / "0007.png")
    work, _ = begin(photos, tmp_path / "work", alts=None, gold=scenes, num_gold=3)
    answer_all(work, "anna", lambda task: "text")
    next_round(work)
    answer_all(work, "anna", lambda task: "text")
    export = training_rows(work, tmp_path / "train.jsonl")
    assert [row["file_name"] for row in export.rows] == ["photos/0007.png"]
    assert export.left_out == {"gold": 3}


def test_captions_as_round_one_are_told_to_the_end(scenes: Path, tmp_path: Path) -> None:
    captions = tmp_path / "c.jsonl"
    captions.write_text(
        json.dumps({"file_name": "0000.png", "caption": "A caption.", "bundle": "b1"}) + "\n"
    )
    work, _ = begin(scenes, tmp_path / "work", captions=captions)
    answer_all(work, "anna", lambda task: task["text"] or "a scene")
    first, second, *_ = training_rows(work, tmp_path / "train.jsonl").rows
    assert (first["started_from"], first["captioner"]) == ("caption", "b1")
    assert first["rounds"] == ["A caption.", "A caption."]
    assert second["started_from"] == "alt-text" and "captioner" not in second
    rows = (tmp_path / "work" / "answers" / "anna.jsonl").read_text().splitlines()
    assert [json.loads(row)["started_from"] for row in rows[:2]] == ["caption", "alt-text"]
