"""Packed pages and Label Studio: what goes out, and what is taken back."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from altogether_rt.annotation.answers import current_answers
from altogether_rt.annotation.importing import import_answers
from altogether_rt.annotation.label_studio import LABEL_CONFIG, task_rows
from altogether_rt.annotation.pack import tasks_to_pack, write_pack
from altogether_rt.annotation.work import Task, Work, hash_text
from altogether_rt.errors import AltogetherError
from altogether_rt.web.answers import AnswerFile, read_answers
from tests.annotation.conftest import NUM_SCENES
from tests.annotation.people import answer_all, begin, serving

pytestmark = pytest.mark.lean


@pytest.fixture
def work(scenes: Path, tmp_path: Path) -> Work:
    return begin(scenes, tmp_path / "work")[0]


def packed_row(task: Task, text: str, /, *, minute: int = 0, **changes: Any) -> dict[str, Any]:
    """A row as the packed page writes it."""
    row = {
        "file_name": task.file_name, "image_hash": task.image_hash, "round": 2,
        "from": hash_text(task.text), "started_from": "alt-text", "annotator": "ben",
        "time": f"2026-11-26T09:{minute:02d}:00.000Z", "guideline": "1-abc", "via": "pack",
        "text": text, "flags": [], "seconds": 7.5,
    }  # fmt: skip
    return row | changes


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def counting(work: Work, name: str) -> dict[str, str]:
    rows = current_answers(read_answers(work.answer_path(name)), 2)
    return {file_name: row["text"] for (file_name, _), row in rows.items()}


def test_answers_come_back_once(work: Work, tmp_path: Path) -> None:
    tasks = work.round().tasks
    rows = [
        packed_row(tasks[0], "first"),
        packed_row(tasks[0], "second", minute=1),
        packed_row(tasks[1], "taken back"),
        packed_row(tasks[1], "", minute=2, withdrawn=True, undo=True),
    ]
    path = write(tmp_path / "answers.jsonl", rows)
    imported = import_answers(work, path)
    assert imported.taken == {"ben": 4} and not imported.refused
    assert counting(work, "ben") == {"0000.png": "second"}
    again = import_answers(work, path)
    assert (again.already_there, again.taken.total()) == (4, 0)
    assert len(read_answers(work.answer_path("ben"))) == 4
    with serving(work, "ben") as ben:  # and the page goes on from there
        assert ben.get("task/0")["answer"]["text"] == "second"
        assert ben.post("undo", {})[1]["taken"]["text"] == "second"
        assert ben.post("undo", {})[1]["taken"]["text"] == "first"
        assert ben.post("undo", {})[1]["task"] is None


def test_a_line_separator_in_a_text_does_not_end_the_row(work: Work, tmp_path: Path) -> None:
    """The page's JSON.stringify escapes neither U+2028 nor U+0085."""
    row = packed_row(work.round().tasks[0], "one\u2028two\u0085three")
    path = tmp_path / "answers.jsonl"
    path.write_bytes(json.dumps(row, ensure_ascii=False).encode() + b"\r\n\r\n")
    assert import_answers(work, path).taken == {"ben": 1}
    assert counting(work, "ben") == {"0000.png": "one two three"}


def test_answers_are_taken_while_somebody_else_is_at_the_page(work: Work, tmp_path: Path) -> None:
    path = write(tmp_path / "answers.jsonl", [packed_row(work.round().tasks[0], "of ben")])
    with serving(work, "anna") as anna:
        assert import_answers(work, path).taken == {"ben": 1}
        assert anna.save(0, "of anna")[0] == 200
    assert (counting(work, "ben"), counting(work, "anna")) == (
        {"0000.png": "of ben"},
        {"0000.png": "of anna"},
    )


def test_older_answers_do_not_replace_newer_ones(work: Work, tmp_path: Path) -> None:
    with serving(work, "ben") as ben:
        ben.save(0, "at the page, today")
    old = packed_row(work.round().tasks[0], "old", time="2020-01-01T00:00:00.000Z")
    imported = import_answers(work, write(tmp_path / "a.jsonl", [old]))
    assert imported.refused == {"older": 1}
    assert counting(work, "ben") == {"0000.png": "at the page, today"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_hash": "0" * 64}, "another image"),
        ({"file_name": "../../etc/passwd"}, "another image"),
        ({"file_name": 3}, "another image"),
        ({"round": 3}, "another round"),
        ({"from": "0" * 64}, "another text"),
        ({"withdrawn": True, "from": "0" * 64}, "another text"),
        ({"text": " "}, "empty"),
        ({"text": None}, "malformed"),
        ({"flags": ["nice"]}, "malformed"),
        ({"time": "yesterday"}, "malformed"),
        ({"guideline": "x" * 65}, "malformed"),
        ({"annotator": None}, "malformed"),
        ({"annotator": "../ben"}, "annotator"),
        ({"annotator": "ben\n"}, "annotator"),
    ],
)
def test_rows_that_cannot_be_taken_are_counted_by_reason(
    work: Work, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    tasks = work.round().tasks
    rows = [packed_row(tasks[0], "bad", **changes), packed_row(tasks[1], "good"), ["no row"]]
    imported = import_answers(work, write(tmp_path / "a.jsonl", rows))
    expected = {reason: 1, "another image": 1} if reason != "another image" else {reason: 2}
    assert imported.refused == expected
    assert imported.taken == {"ben": 1} and counting(work, "ben") == {"0001.png": "good"}
    assert {path.name for path in (work.folder / "answers").iterdir()} == {"ben.jsonl"}


def test_answers_of_somebody_at_the_page_wait(work: Work, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [packed_row(work.round().tasks[0], "text")])
    with (
        AnswerFile(work.answer_path("ben")),
        pytest.raises(AltogetherError, match="another process is writing"),
    ):
        import_answers(work, path)
    assert import_answers(work, path, "cleo").taken == {"cleo": 1}


def test_files_that_are_neither_kind_are_refused(work: Work, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for data in (b"<html>", b"[1,", b"\xff\xfe", b"[" * 200_000):
        path.write_bytes(data)
        with pytest.raises(AltogetherError, match=r"a\.jsonl"):
            import_answers(work, path)
    with pytest.raises(AltogetherError, match="cannot be read"):
        import_answers(work, tmp_path / "missing")


def json_min(task: Task, caption: Any, **changes: Any) -> dict[str, Any]:
    """An entry as Label Studio 1.23.2 exported it."""
    row = task_rows([task], 2, "/data/local-files/?d=")[0]["data"]
    return {
        **row, "caption": caption, "annotator": 3, "annotation_id": 11, "id": 5,
        "created_at": "2026-11-26T08:30:00.123456Z", "updated_at": "2026-11-26T08:30:00.2Z",
        "lead_time": 12.25,
    } | changes  # fmt: skip


def test_label_studio_there_and_back(work: Work, tmp_path: Path) -> None:
    tasks = work.round().tasks
    (row, *_) = task_rows(tasks, 2, "/data/local-files/?d=img/")
    assert row["data"]["image"] == "/data/local-files/?d=img/0000.png"
    assert row["data"]["previous"] == tasks[0].text and "gold" not in row["data"]
    odd = dataclasses.replace(tasks[0], file_name="a b/&?#.jpg")
    (row,) = task_rows([odd], 2, "/d=")
    assert row["data"]["image"] == "/d=a%20b/%26%3F%23.jpg"
    (row,) = task_rows([dataclasses.replace(odd, file_name="caf\udce9.jpg")], 2, "/d=")
    assert row["data"]["image"] == "/d=caf%E9.jpg"
    for flag in ("cannot_verify", "private", "unusable"):
        assert f'<Choice value="{flag}"/>' in LABEL_CONFIG
    entries = [
        json_min(tasks[0], "a caption", flag="cannot_verify"),
        json_min(tasks[1], ["in a list"], flag={"choices": ["private", "unusable"]}),
        json_min(tasks[2], ["one", "two"]),
        json_min(tasks[3], "of another text", previous="something else"),
        json_min(tasks[4], "bad flag", flag="nice"),
        json_min(tasks[5], "no time", created_at=None),
        json_min(tasks[5], "before all time", created_at="0001-01-01T00:00:00+01:00"),
        json_min(tasks[6], "of this round, whichever that is", round=None),
        "no entry",
    ]
    path = tmp_path / "ls.json"
    path.write_text(json.dumps(entries))
    imported = import_answers(work, path)
    assert imported.source == "label-studio" and imported.taken == {"ls-3": 3}
    assert "row 5: the answer to 0004.png has unknown flags" in str(imported.examples)
    assert imported.refused == {
        "empty": 1, "another text": 1, "malformed": 3, "another image": 1,
    }  # fmt: skip
    first, second, third = read_answers(work.answer_path("ls-3"))
    assert (first["text"], first["flags"], first["seconds"]) == (
        *("a caption", ["cannot_verify"], 12.2),
    )
    assert first["time"] == "2026-11-26T08:30:00.123Z" and first["via"] == "label-studio"
    assert (second["text"], second["flags"]) == ("in a list", ["private", "unusable"])
    assert (third["text"], third["round"]) == ("of this round, whichever that is", 2)
    assert import_answers(work, path, "ben").taken == {"ben": 3}


def test_a_packed_page_stands_alone(work: Work, tmp_path: Path) -> None:
    with serving(work, "ben") as ben:
        ben.save(3, "answered already")
    out = tmp_path / "pack" / "ben.html"
    tasks = tasks_to_pack(work, "ben")
    assert len(tasks) == NUM_SCENES - 1
    write_pack(work, "ben", tasks, out)
    page = out.read_text("utf-8")
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page.replace("<\\u003c", ""))
    assert "https://" not in page.replace("http://www.w3.org/2000/svg", "")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src &#x27;none&#x27;; img-src data:; script-src &#x27;sha")
    for kind in ("style", "script"):
        blocks = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        assert len(blocks) == {"style": 2, "script": 4}[kind]
        for block in blocks:
            digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
            assert f"&#x27;sha256-{digest}&#x27;" in policy[1]
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])  # type: ignore[index]
    assert [task["file_name"] for task in data["tasks"]] == [
        f"{index:04d}.png" for index in range(NUM_SCENES) if index != 3
    ]
    urls = re.findall(r'id="image-\d+">data:image/(\w+);base64,([^<]+)<', page)
    assert len(urls) == NUM_SCENES - 1
    with Image.open(io.BytesIO(base64.b64decode(urls[0][1]))) as image:
        assert image.size == (256, 256) and not image.info.get("exif")


def test_a_packed_image_is_shrunk_and_tells_nothing_of_its_camera(
    scenes: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned upright
    exif[0x010E] = "taken at home"
    noise = Image.effect_noise((900, 600), 80).convert("RGB")
    noise.save(photos / '<b>&"x.jpg', exif=exif)
    alts = {'<b>&"x.jpg': "</script><script>alert(1)</script>"}
    (photos / "alts.json").write_text(json.dumps(alts))
    work, started = begin(photos, tmp_path / "work", alts=Path("alts.json"))
    assert started.tasks[0].text.startswith("</script>")
    assert (started.tasks[0].width, started.tasks[0].height) == (600, 900)
    out = tmp_path / "p.html"
    write_pack(work, "ben", tasks_to_pack(work, "ben"), out, max_side=300)
    page = out.read_text("utf-8")
    assert page.count("</script>") == 6  # four scripts, the data, the image; none of theirs
    found = re.search(r"data:image/(\w+);base64,([^<]+)<", page)
    assert found is not None
    data = base64.b64decode(found[2])
    assert b"taken at home" not in data
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (200, 300)


def test_nothing_to_pack_is_said(work: Work, scenes: Path, tmp_path: Path) -> None:
    answer_all(work, "ben", lambda task: "text")
    with pytest.raises(AltogetherError, match="has answered everything"):
        tasks_to_pack(work, "ben")
    (scenes / "0001.png").unlink()
    with pytest.raises(AltogetherError, match=r"0001\.png cannot be read"):
        write_pack(work, "cleo", tasks_to_pack(work, "cleo"), tmp_path / "p.html")
    assert not list(tmp_path.glob("*.html*")) and not list(tmp_path.glob(".*"))
