"""The page's server: what one annotator sees and may do, and what stays whatever happens."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.annotation.answers import current_answers
from altogether_rt.annotation.session import Session, tasks_for
from altogether_rt.annotation.work import hash_text
from altogether_rt.errors import AltogetherError
from altogether_rt.web.answers import read_answers
from tests.annotation.conftest import NUM_SCENES
from tests.annotation.people import Person, begin, serving

pytestmark = pytest.mark.lean


def rows_of(work_folder: Path, name: str) -> list[dict[str, Any]]:
    return [dict(row) for row in read_answers(work_folder / "answers" / f"{name}.jsonl")]


def test_an_answer_says_all_that_it_must(scenes: Path, tmp_path: Path) -> None:
    work, started = begin(scenes, tmp_path / "work")
    with serving(work, "anna") as anna:
        shown = anna.get("task/2")
        assert shown["text"] == started.tasks[2].text and shown["answer"] is None
        assert anna.save(2, " a  new\ntext\x00 ", "cannot_verify", seconds=4.26) == (
            *(200, {"status": "flagged"}),
        )
        assert anna.get("task/2")["answer"] == {"text": "a  new text", "flags": ["cannot_verify"]}
        assert anna.get("state")["statuses"] == ["", "", "flagged"] + [""] * (NUM_SCENES - 3)
    (row,) = rows_of(tmp_path / "work", "anna")
    time_ = row.pop("time")
    assert abs(time.time() - _seconds(time_)) < 60
    assert row == {
        "file_name": "0002.png",
        "image_hash": started.tasks[2].image_hash,
        "round": 2,
        "from": hash_text(started.tasks[2].text),
        "started_from": "alt-text",
        "annotator": "anna",
        "guideline": work.guideline.stamp,
        "via": "page",
        "text": "a  new text",
        "flags": ["cannot_verify"],
        "seconds": 4.3,
    }


def _seconds(text: str) -> float:
    import datetime

    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        ({"text": ""}, 409, "is empty"),
        ({"text": " \n "}, 409, "is empty"),
        ({"text": "x" * 9000}, 409, "longer than 8,192"),
        ({"text": 3}, 409, "has no text"),
        ({"flags": ["nice"]}, 409, "unknown flags"),
        ({"flags": "private"}, 409, "unknown flags"),
        ({"flags": [["private"]]}, 409, "unknown flags"),
        ({"from": "0" * 64}, 409, "not this round's"),
        ({"from": None}, 409, "not this round's"),
        ({"task": 99}, 404, "no such image"),
        ({"task": NUM_SCENES}, 404, "no such image"),
        ({"task": "9" * 5000}, 404, "no such image"),
        ({"task": -1}, 404, "no such image"),
        ({"task": "../0"}, 404, "no such image"),
        ({"task": None}, 404, "no such image"),
        ({"task": "٣"}, 404, "no such image"),
    ],
)
def test_what_is_no_answer_is_refused_and_not_written(
    scenes: Path, tmp_path: Path, said: dict[str, Any], status: int, words: str
) -> None:
    work, _ = begin(scenes, tmp_path / "work")
    with serving(work, "anna") as anna:
        good = {"task": 0, "text": "t", "flags": [], "from": anna.get("task/0")["from"]}
        found, answer = anna.post("answer", good | said)
        assert (found, words in answer["error"]) == (status, True)
        assert rows_of(tmp_path / "work", "anna") == []
        assert anna.save(0, "", "unusable")[0] == 200  # what cannot be described needs no text


@pytest.mark.parametrize(
    "seconds", [None, "nine", True, -5, 1e12, pytest.param(10**400, id="no float")]
)
def test_seconds_that_cannot_be_are_not_believed(
    scenes: Path, tmp_path: Path, seconds: Any
) -> None:
    work, _ = begin(scenes, tmp_path / "work")
    with serving(work, "anna") as anna:
        assert anna.save(0, "text", seconds=seconds)[0] == 200
    expected = (
        {-5: 0.0, 1e12: 86400.0, 10**400: 86400.0}.get(seconds)
        if not isinstance(seconds, bool)
        else None
    )
    assert rows_of(tmp_path / "work", "anna")[0]["seconds"] == expected


def test_undo_goes_back_one_save_at_a_time_over_restarts(scenes: Path, tmp_path: Path) -> None:
    work, _ = begin(scenes, tmp_path / "work")
    with serving(work, "anna") as anna:
        for index, text in ((0, "one"), (1, "two"), (0, "one again")):
            anna.save(index, text)
        status, said = anna.post("undo", {})
        assert (status, said["task"], said["taken"]["text"]) == (200, 0, "one again")
        assert anna.get("task/0")["answer"]["text"] == "one"
    with serving(work, "anna") as anna:
        assert anna.get("task/0")["answer"]["text"] == "one"
        assert anna.post("undo", {})[1] == {
            "task": 1,
            "status": "",
            "taken": {"text": "two", "flags": []},
        }
        assert anna.get("task/1")["answer"] is None
        anna.save(2, "three")
        assert [anna.post("undo", {})[1]["task"] for _ in range(3)] == [2, 0, None]
        assert anna.get("state")["statuses"] == [""] * NUM_SCENES
    rows = rows_of(tmp_path / "work", "anna")
    assert len(rows) == 8  # four saves, four undone: nothing is ever removed
    assert current_answers(rows, 2) == {}


def test_one_annotator_neither_sees_nor_changes_anothers(scenes: Path, tmp_path: Path) -> None:
    work, started = begin(scenes, tmp_path / "work", annotators=("anna", "ben"), overlap=0.5)
    with serving(work, "ben") as ben:
        ben.save_all(lambda task: "the secret of ben")
    before = (tmp_path / "work" / "answers" / "ben.jsonl").read_bytes()
    with serving(work, "anna") as anna:
        state = anna.get("state")
        served = json.dumps(
            [state, *(anna.get(f"task/{i}") for i in range(len(state["statuses"])))]
        )
        assert "ben" not in served.replace("beneath", "")
        assert "secret" not in served
        anna.save_all(lambda task: "the text of anna")
        assert anna.post("answer", {"annotator": "ben", "task": 0})[0] == 409
        for name in ("answers/ben.jsonl", "../answers/ben.jsonl", "work.json", "task/ben"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                anna.get(name)
            assert refused.value.code == 404
    assert (tmp_path / "work" / "answers" / "ben.jsonl").read_bytes() == before
    mine = [task for task in started.tasks if "anna" in task.annotators]
    assert len(rows_of(tmp_path / "work", "anna")) == len(mine) < NUM_SCENES


def test_two_pages_cannot_answer_as_one_person(scenes: Path, tmp_path: Path) -> None:
    work, _ = begin(scenes, tmp_path / "work")
    with (
        Session(work, "anna"),
        Session(work, "ben"),
        pytest.raises(AltogetherError, match="another process is writing"),
    ):
        Session(work, "anna")
    Session(work, "anna").close()


def test_who_has_no_images_is_told_and_may_take_over(scenes: Path, tmp_path: Path) -> None:
    work, started = begin(scenes, tmp_path / "work", annotators=("anna", "ben"))
    with pytest.raises(AltogetherError, match=r"dave has no images .* anna, ben.*--instead-of"):
        Session(work, "dave")
    with serving(work, "ben") as ben:
        ben.save(0, "ben had this one")
    of_ben = [task.file_name for task in started.tasks if "ben" in task.annotators]
    with serving(work, "dave", ("ben",)) as dave:
        num = len(dave.get("state")["statuses"])
        assert [dave.get(f"task/{i}")["file_name"] for i in range(num)] == of_ben[1:]


def test_what_is_taken_over_stands_where_it_stood_and_once(scenes: Path, tmp_path: Path) -> None:
    work, started = begin(scenes, tmp_path / "work", annotators=("anna", "ben"), overlap=0.5)
    both = tasks_for(work, "ben", ("anna",))
    assert [task.key for task in both] == [task.key for task in started.tasks]


@pytest.mark.parametrize("name", ["../anna", "", "a/b", ".", "anna\n"])
def test_a_name_that_is_no_name_of_a_file_is_refused(
    scenes: Path, tmp_path: Path, name: str
) -> None:
    work, _ = begin(scenes, tmp_path / "work")
    before = sorted((tmp_path / "work").rglob("*"))
    with pytest.raises(AltogetherError, match="annotator"):
        Session(work, name)
    with pytest.raises(AltogetherError, match="annotator"):
        Session(work, "anna", (name,))
    assert sorted((tmp_path / "work").rglob("*")) == before


def test_a_image_that_changed_is_refused_by_name(scenes: Path, tmp_path: Path) -> None:
    work, _ = begin(scenes, tmp_path / "work")
    (scenes / "0001.png").write_bytes((scenes / "0002.png").read_bytes())
    (scenes / "0003.png").unlink()
    with serving(work, "anna") as anna:
        status, said = anna.save(1, "a text")
        assert status == 409 and "0001.png has changed since the round began" in said["error"]
        with pytest.raises(urllib.error.HTTPError) as refused:
            anna.get("image/1")
        assert "0001.png has changed" in json.load(refused.value)["error"]
        status, said = anna.save(3, "a text")
        assert status == 409 and "0003.png cannot be read" in said["error"]
        assert anna.save(0, "a text")[0] == 200
    assert len(rows_of(tmp_path / "work", "anna")) == 1


def test_kill_after_any_answer_loses_none(scenes: Path, tmp_path: Path) -> None:
    begin(scenes, tmp_path / "work")
    confirmed: list[tuple[int, str]] = []
    command = [
        sys.executable, "-m", "altogether_rt.cli.main",
        "annotate", "serve", str(tmp_path / "work"), "--as", "anna",
    ]  # fmt: skip
    for turn in range(NUM_SCENES):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            anna = Person(process.stdout.readline().strip())
            statuses = anna.get("state")["statuses"]
            assert [i for i, status in enumerate(statuses) if status] == [i for i, _ in confirmed]
            assert statuses.index("") == turn  # where the page goes on
            assert anna.save(turn, f"text {turn}")[0] == 200
            process.send_signal(signal.SIGKILL)
        confirmed.append((turn, f"text {turn}"))
        # As if the process had died in the middle of the next write.
        with (tmp_path / "work" / "answers" / "anna.jsonl").open("ab") as file:
            file.write(b'{"file_name": "0000.png", "pict')
    found = rows_of(tmp_path / "work", "anna")
    assert [row["text"] for row in found] == [text for _, text in confirmed]
