"""Starting: which images, which texts, who gets what."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.annotation.assign import assign
from altogether_rt.annotation.guideline import default_guideline, read_guideline
from altogether_rt.annotation.work import Task, Work
from altogether_rt.errors import AltogetherError
from tests.annotation.conftest import NUM_SCENES
from tests.annotation.people import begin

pytestmark = pytest.mark.lean


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_round_one_is_the_alt_text(scenes: Path, tmp_path: Path) -> None:
    work, _ = begin(scenes, tmp_path / "work")
    opened = work.round()
    assert opened.number == 2
    references = lines(scenes / "references.jsonl")
    assert [task.file_name for task in opened.tasks] == [row["file_name"] for row in references]
    for task, row in zip(opened.tasks, references, strict=True):
        assert task.text == row["rounds"][0]
        assert list(task.alts) == row["alts"]
        assert (task.width, task.height, task.started_from) == (256, 256, "alt-text")
        assert not task.gold and not task.extra


def test_captions_take_the_alt_texts_place_and_every_row_says_so(
    scenes: Path, tmp_path: Path
) -> None:
    captions = tmp_path / "captions.jsonl"
    rows = [
        {"file_name": "0000.png", "caption": "A green caption.", "bundle": "f00d"},
        {"file_name": "0001.png", "error": {"class": "damaged", "message": "it is."}},
    ]
    captions.write_text("".join(json.dumps(row) + "\n" for row in rows) + "no row\n")
    _, started = begin(scenes, tmp_path / "work", captions=captions)
    first, second, *_ = started.tasks
    assert (first.text, first.started_from, first.captioner) == (
        *("A green caption.", "caption", "f00d"),
    )
    assert (second.started_from, second.captioner) == ("alt-text", None)
    assert first.alts  # still shown
    with pytest.raises(AltogetherError, match="has no captions"):
        begin(scenes, tmp_path / "other", captions=scenes / "alts.jsonl")
    captions.write_text('{"file_name": "photos/0000.png", "caption": "Of elsewhere."}\n')
    said = r"no image in .* has a caption in .*captions.jsonl.*'0000.png'.*'photos/0000.png'"
    with pytest.raises(AltogetherError, match=said):
        begin(scenes, tmp_path / "other", captions=captions)
    assert not (tmp_path / "other").exists()


def test_images_that_cannot_be_read_are_left_out_by_name(scenes: Path, tmp_path: Path) -> None:
    (scenes / "0003.png").write_bytes((scenes / "0003.png").read_bytes()[:900])
    (scenes / "zz.jpg").write_text("<html>")
    work, started = begin(scenes, tmp_path / "work")
    assert len(work.round().tasks) == NUM_SCENES - 1
    rows = lines(tmp_path / "work" / "left_out.jsonl")
    assert [(row["file_name"], row["error"]["class"]) for row in rows] == [
        *(("0003.png", "truncated"), ("zz.jpg", "not_an_image")),
    ]
    assert started.left_out == rows


def test_nothing_is_left_of_a_start_that_fails(scenes: Path, tmp_path: Path) -> None:
    for path in scenes.glob("*.png"):
        path.write_text("broken")
    with pytest.raises(AltogetherError, match="not one image"):
        begin(scenes, tmp_path / "work")
    assert {path.name for path in tmp_path.iterdir()} == {"scenes"}


def test_a_folder_with_something_in_it_is_left_alone(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mine").write_text("mine")
    with pytest.raises(AltogetherError, match="is there already"):
        begin(scenes, tmp_path / "work")
    with pytest.raises(AltogetherError, match="is not a work folder"):
        Work(scenes)


def test_scenes_are_mixed_in_for_everybody(scenes: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, path in enumerate(sorted(scenes.glob("*.png"))[:6]):
        shutil.copy(path, photos / f"photo{index}.png")
    names = ("anna", "ben")
    work, _ = begin(photos, tmp_path / "work", alts=None, gold=scenes, num_gold=2, annotators=names)
    tasks = work.round().tasks
    extras = [task for task in tasks if task.extra]
    assert len(extras) == 2 and all(task.gold and task.annotators == names for task in extras)
    assert [task.extra for task in tasks] == [False, False, True, False, False, True, False, False]
    assert all(work.image_file(task).path.is_file() for task in tasks)
    assert set(work.gold_facts()) == {task.key for task in extras}
    own, _ = begin(scenes, tmp_path / "own", gold=scenes)
    assert all(task.gold and not task.extra for task in own.round().tasks)
    assert len(own.round().tasks) == NUM_SCENES


def test_a_guideline_of_ones_own(scenes: Path, tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(default_guideline().replace('version = "1"', 'version = "7"'))
    work, _ = begin(scenes, tmp_path / "work", guideline=path)
    assert work.guideline.version == "7"
    stamp = work.guideline.stamp
    copy = tmp_path / "work" / "guideline.toml"
    copy.write_text(copy.read_text().replace("Keep names", "Keep all names"))
    assert work.guideline.version == "7" and work.guideline.stamp != stamp
    for text in ("version = 1", "[", 'version = "1"\ntitle = "t"\nrules = []', "rules = 3"):
        path.write_text(text)
        with pytest.raises(
            AltogetherError, match=r"guideline .*ours\.toml (is not valid TOML|has a mistake)"
        ):
            read_guideline(path)


def make_tasks(num: int, author: str | None = None) -> list[Task]:
    return [
        Task(f"{i}.png", f"{i:064x}", 1, 1, (), ("text",), "alt-text", author=author)
        for i in range(num)
    ]


@pytest.mark.parametrize(("num", "people", "overlap"), [(100, 3, 0.2), (7, 2, 1.0), (50, 4, 0.5)])
def test_shares_are_even_and_the_overlap_exact(num: int, people: int, overlap: float) -> None:
    names = [f"p{i}" for i in range(people)]
    tasks = assign(make_tasks(num), names, overlap, seed=1)
    load = Counter(name for task in tasks for name in task.annotators)
    assert max(load.values()) - min(load.values()) <= 1
    assert sum(len(set(task.annotators)) == 2 for task in tasks) == round(overlap * num)
    assert [task.file_name for task in tasks] == [f"{i}.png" for i in range(num)]
    assert assign(make_tasks(num), names, overlap, seed=1) == tasks
    assert assign(make_tasks(num), names, overlap, seed=2) != tasks or overlap == 1.0


def test_nobody_gets_their_own_text_where_there_is_a_choice() -> None:
    tasks = assign(make_tasks(30, "anna"), ["anna", "ben", "cleo"], 0.3, seed=1)
    assert not any("anna" in task.annotators for task in tasks)
    assert all(t.annotators == ("anna",) for t in assign(make_tasks(3, "anna"), ["anna"], 0.0, 1))


def test_more_overlap_keeps_what_was_doubled() -> None:
    few = assign(make_tasks(60), ["a", "b"], 0.2, seed=4)
    many = assign(make_tasks(60), ["a", "b"], 0.4, seed=4)
    doubled = [{t.file_name for t in tasks if len(t.annotators) == 2} for tasks in (few, many)]
    assert doubled[0] < doubled[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"annotators": ("anna", "anna")}, "twice"),
        ({"annotators": ("../x",)}, "cannot be an annotator's name"),
        ({"annotators": ("anna",), "overlap": 0.1}, "at least two names"),
        ({"overlap": 0.1}, "at least two names"),
        ({"alts": Path("missing.jsonl")}, "no alt-text file"),
        ({"gold": Path("/nowhere")}, "there is no file"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    scenes: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(AltogetherError, match=words):
        begin(scenes, tmp_path / "work", **options)
