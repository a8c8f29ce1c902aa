"""From caption files and images to a study's folder, and what is left out and said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.comparison.design import Split
from altogether_rt.comparison.inputs import name_systems
from altogether_rt.comparison.questions import load_questions
from altogether_rt.comparison.start import StartOptions, start_study
from altogether_rt.comparison.study import Study
from altogether_rt.errors import AltogetherError
from altogether_rt.evaluation.inputs import read_captions
from tests.comparison.studies import start_small, write_captions, write_images, write_rows

pytestmark = pytest.mark.lean


def test_a_study_comes_back_as_it_was_written(tmp_path: Path) -> None:
    started = start_small(tmp_path, 20)
    study = Study.load(tmp_path / "sxs")
    assert study == started.study
    assert (len(study.tasks), started.num_repeats, started.num_images) == (22, 2, 20)
    key = study.load_key()
    assert [system.name for system in key.systems] == ["zebra", "walrus"]
    for task in study.tasks:
        side = key.sides()[task.id]
        texts = {0: "a boat number", 1: "some ship called"}
        assert task.left.startswith(texts[side.left])
        assert task.right.startswith(texts[side.right])
        assert task.alt == ("the Marigold",)
    assert sorted(path.name for path in (tmp_path / "sxs").iterdir()) == [
        "answers",
        "key.json",
        "study.json",
        "tasks.jsonl",
    ]


def test_the_seed_decides_what_is_shown_but_not_the_ids(tmp_path: Path) -> None:
    shown = []
    for index, seed in enumerate((5, 5, 6)):
        study = start_small(tmp_path, 20, seed=seed, out=tmp_path / str(index)).study
        shown.append([(task.file_name, task.left) for task in study.tasks])
    assert shown[0] == shown[1] != shown[2]
    ids = [{t.id for t in Study.load(tmp_path / str(i)).tasks} for i in range(2)]
    assert not ids[0] & ids[1]  # nobody who knows the seed can tell an id's task
    assert Study.load(tmp_path / "0").load_key().seed == 5
    drawn = [
        start_small(tmp_path, 4, seed=None, out=tmp_path / f"drawn{i}").study.load_key().seed
        for i in range(2)
    ]
    assert drawn[0] != drawn[1]


def test_nothing_but_the_key_tells_the_systems_apart(tmp_path: Path) -> None:
    start_small(tmp_path, 20)
    for name in ("study.json", "tasks.jsonl"):
        text = (tmp_path / "sxs" / name).read_text()
        assert "zebra" not in text and "walrus" not in text
        assert "seed" not in text and "is_repeat" not in text


def test_the_key_may_be_elsewhere_but_must_be_that_of_the_study(tmp_path: Path) -> None:
    study = start_small(tmp_path, 4).study
    key = tmp_path / "sxs" / "key.json"
    kept = key.rename(tmp_path / "kept.json")
    assert study.load_key(kept).id == study.info.id
    with pytest.raises(AltogetherError, match=r"there is no key .*--key"):
        study.load_key()
    start_small(tmp_path, 4, out=tmp_path / "other")
    with pytest.raises(AltogetherError, match="key of another study"):
        study.load_key(tmp_path / "other" / "key.json")


def test_what_cannot_be_compared_is_counted_and_left_out(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", ["a.png", "b.png", "c.png", "sub/d.png"])
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    error = {"class": "damaged", "message": "…"}
    names = ["a.png", "b.png", "./sub/d.png", "broken.png", "gone.png", "../a.png", "/etc/passwd"]
    first = write_rows(
        tmp_path / "first.jsonl",
        [{"file_name": name, "caption": f"one {name}"} for name in names]
        + [{"file_name": "c.png", "error": error}, {"file_name": "a.png", "caption": "again"}],
    )
    second = write_rows(
        tmp_path / "second.jsonl",
        [{"file_name": name, "caption": f"two {name}", "alt": ["x", "y"]} for name in names[2:]]
        + [{"file_name": "a.png", "caption": "again  \n"}, {"file_name": "c.png", "caption": "c"}],
    )
    with second.open("a") as file:
        file.write("no row\n" + json.dumps({"file_name": "b.png"}) + "\n[1]")
    options = StartOptions((first, second), images, tmp_path / "sxs", load_questions(), seed=1)
    started = start_study(options)
    assert [task.file_name for task in started.study.tasks] == ["./sub/d.png"]
    assert started.study.tasks[0].alt == ("x", "y")
    assert started.num_identical == 1  # a.png: its last rows differ in spaces alone
    assert started.missing[0].examples == ["c.png: an error row"]
    assert started.missing[1].examples == ["b.png: no row"]
    assert [unusable.count for unusable in started.unusable] == [0, 3]
    assert started.repeated == (1, 0)
    assert started.unreadable.count == 4
    said = str(started.unreadable)
    for part in ("broken.png", "gone.png", "../a.png is not in"):
        assert part in said
    key = started.study.load_key()
    assert [system.left_out for system in key.systems] == [1, 1]
    assert key.unreadable_images == 4


def test_alt_texts_of_their_own_file(tmp_path: Path) -> None:
    alts = write_rows(tmp_path / "alts.jsonl", [{"file_name": "001.png", "alt": ["one", "two"]}])
    study = start_small(tmp_path, 3, alt="", alts=alts).study
    found = {task.file_name: task.alt for task in study.tasks}
    assert found == {"000.png": (), "001.png": ("one", "two"), "002.png": ()}
    asked = {task.file_name: len(study.questions_of(task)) for task in study.tasks}
    assert asked == {"000.png": 2, "001.png": 3, "002.png": 2}


def test_a_limit_takes_the_first_images_of_the_drawn_order(tmp_path: Path) -> None:
    def names(limit: int | None, out: str) -> list[str]:
        study = start_small(tmp_path, 12, limit=limit, repeat_share=0, out=tmp_path / out).study
        return [task.file_name for task in study.tasks]

    everything = names(None, "all")
    assert names(5, "five") == everything[:5]
    assert everything != sorted(everything)


def test_several_systems(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", [f"{i:03}.png" for i in range(9)])
    files = tuple(
        write_captions(tmp_path / f"{name}.jsonl", f"{name} says", 9) for name in ("x", "y", "z")
    )
    options = StartOptions(files, images, tmp_path / "sxs", load_questions(), repeat_share=0)
    study = start_study(options).study
    sides = study.load_key().sides().values()
    pairs = sorted(tuple(sorted((side.left, side.right))) for side in sides)
    assert pairs == [(0, 1)] * 3 + [(0, 2)] * 3 + [(1, 2)] * 3


def test_names_of_systems_are_the_shortest_ends_of_their_paths(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write_captions(tmp_path / folder / "captions.jsonl", folder, 1)
    files = [read_captions(tmp_path / f / "captions.jsonl") for f in ("x", "y")]
    assert name_systems(files, None) == ("x/captions", "y/captions")
    assert name_systems(files, (" p", "q")) == ("p", "q")
    for names in (("p",), ("p", "p"), ("p", "")):
        with pytest.raises(AltogetherError, match="2 different names"):
            name_systems(files, names)
    with pytest.raises(AltogetherError, match="different names"):
        name_systems([files[0], files[0]], None)
    with pytest.raises(AltogetherError, match="two caption files or more"):
        name_systems(files[:1], None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"images": Path("absent")}, "absent is not a folder"),
        ({"split": Split(("ann", "ann"))}, "names somebody twice"),
        ({"split": Split(("ann", "Ben!"))}, "cannot be an annotator's name"),
        ({"split": Split(("ann",), 0.5)}, "--overlap needs --annotators"),
        ({"captions": (Path("absent.jsonl"), Path("absent.jsonl"))}, "no file of captions"),
        ({"alts": Path("absent.jsonl")}, "no alt-text file"),
    ],
)
def test_a_users_mistake_is_a_sentence_and_makes_no_folder(
    tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    images = write_images(tmp_path / "images", ["000.png"])
    first = write_captions(tmp_path / "zebra.jsonl", "a", 1)
    second = write_captions(tmp_path / "walrus.jsonl", "b", 1)
    whole: dict[str, Any] = {
        "captions": (first, second),
        "images": images,
        "out": tmp_path / "sxs",
        "questions": load_questions(),
        **options,
    }
    with pytest.raises(AltogetherError, match=says):
        start_study(StartOptions(**whole))
    assert not (tmp_path / "sxs").exists()
    assert not list(tmp_path.glob(".sxs*"))


def test_nothing_to_compare(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", ["000.png"])
    first = write_captions(tmp_path / "zebra.jsonl", "a", 1)
    other = write_rows(tmp_path / "walrus.jsonl", [{"file_name": "x.png", "caption": "b"}])
    options = StartOptions((first, other), images, tmp_path / "sxs", load_questions())
    with pytest.raises(AltogetherError, match=r"nothing to compare: .*x.png: no row"):
        start_study(options)
    empty = write_rows(tmp_path / "empty.jsonl", [])
    with pytest.raises(AltogetherError, match="holds no caption"):
        read_captions(empty)


def test_a_study_is_never_written_over(tmp_path: Path) -> None:
    start_small(tmp_path, 2)
    with pytest.raises(AltogetherError, match="exists already"):
        start_small(tmp_path, 2)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("study.json", lambda text: text.replace('"schema": 1', '"schema": 9'), "has schema 9"),
        ("study.json", lambda text: text.replace('"images"', '"folder"'), "unknown key folder"),
        ("study.json", lambda text: text[:40], "is not valid JSON"),
        ("tasks.jsonl", lambda text: text + text, "has a task twice"),
        ("tasks.jsonl", lambda text: "[" * 100_000, "is not valid JSON"),
        ("key.json", lambda text: "[]", "key.json is not valid"),
    ],
)
def test_a_damaged_study_is_named(tmp_path: Path, name: str, change: Any, says: str) -> None:
    start_small(tmp_path, 2)
    path = tmp_path / "sxs" / name
    path.write_text(change(path.read_text()))
    with pytest.raises(AltogetherError, match=says):
        Study.load(tmp_path / "sxs").load_key()
    with pytest.raises(AltogetherError, match="holds no study"):
        Study.load(tmp_path)
