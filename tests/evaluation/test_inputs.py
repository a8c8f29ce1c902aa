"""Captions and references in every layout that is read, and what is counted instead of dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.data.alts import read_alts
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.evaluation.inputs import image_path, read_captions, read_references

pytestmark = pytest.mark.lean


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_captions(tmp_path: Path) -> None:
    error = {"class": "truncated", "message": "The end is missing."}
    path = write(
        tmp_path / "c.jsonl",
        [
            {"file_name": "a.jpg", "alt": "our boat", "caption": "A boat.", "tokens": 3},
            {"file_name": "b.jpg", "alt": "", "error": error},
            {"file_name": "./sub//c.jpg", "alt": ["one", "", "two"], "caption": "First\nversion"},
            {"file_name": "sub/c.jpg", "caption": "Second version"},
            {"file_name": "d.jpg"},
            {"caption": "no name"},
        ],
    )
    with path.open("a") as file:
        file.write("not json\n")
        file.write('{"file_name": "e.jpg", "caption": "The last line has no end."}')
    captions = read_captions(path)
    assert captions.texts == {
        "a.jpg": "A boat.",
        "sub/c.jpg": "Second version",
        "e.jpg": "The last line has no end.",
    }
    assert captions.alts["a.jpg"] == ("our boat",)
    assert "sub/c.jpg" not in captions.alts  # the last row counts, and does not say
    assert captions.errors == {"b.jpg": "truncated"}
    assert captions.error_counts() == {"truncated": 1}
    assert captions.num_repeated == 1
    assert captions.problems.count == 3


def test_an_error_row_after_a_caption_counts(tmp_path: Path) -> None:
    rows = [
        {"file_name": "a.jpg", "caption": "A boat."},
        {"file_name": "b.jpg", "caption": "A bird."},
        {"file_name": "a.jpg", "error": {"class": "empty", "message": "No bytes."}},
    ]
    captions = read_captions(write(tmp_path / "c.jsonl", rows))
    assert list(captions.texts) == ["b.jpg"]
    assert captions.errors == {"a.jpg": "empty"}


def test_alt_texts_of_a_file_go_first(tmp_path: Path) -> None:
    alts = read_alts(write(tmp_path / "alts.jsonl", [{"file_name": "a.jpg", "alt": "given"}]))
    rows = [
        {"file_name": "a.jpg", "alt": "own", "caption": "A"},
        {"file_name": "b.jpg", "alt": "own", "caption": "B"},
    ]
    rows.append({"file_name": "c.jpg", "caption": "C"})
    path = write(tmp_path / "c.jsonl", rows)
    known = {"a.jpg": ("given",), "b.jpg": ("own",), "c.jpg": ()}  # "c" has none
    assert read_captions(path, alts).alts == known
    assert read_captions(path).alts == {"a.jpg": ("own",), "b.jpg": ("own",)}  # unknown


@pytest.mark.parametrize(
    ("record", "texts"),
    [
        ({"references": ["one", "two", " "]}, ("one", "two")),
        ({"references": "one"}, ("one",)),
        ({"rounds": ["the alt-text", "better", "best"]}, ("best",)),
        ({"caption": "one"}, ("one",)),
        ({"captions": ["one", "two"]}, ("one", "two")),
        ({"references": ["one"], "rounds": ["alt", "last"], "caption": "c"}, ("one",)),
    ],
)
def test_references(tmp_path: Path, record: dict[str, Any], texts: tuple[str, ...]) -> None:
    path = write(tmp_path / "r.jsonl", [{"file_name": "a.jpg", "alts": ["alt"], **record}])
    references = read_references(path)
    assert references.texts == {"a.jpg": texts}
    assert references.alts == {"a.jpg": ("alt",)}


def test_references_that_are_none_are_counted(tmp_path: Path) -> None:
    rows = [
        {"file_name": "a.jpg", "references": ["one"]},
        {"file_name": "b.jpg", "references": []},
        {"file_name": "c.jpg", "references": [" "]},
        {"references": ["one"]},
        {"file_name": "a.jpg", "references": ["another"]},
    ]
    references = read_references(write(tmp_path / "r.jsonl", rows))
    assert references.texts == {"a.jpg": ("one", "another")}
    assert references.problems.count == 3


def test_coco(tmp_path: Path) -> None:
    data = {
        "images": [{"id": 7, "file_name": "007.jpg"}, {"id": 8, "file_name": "008.jpg"}, 5],
        "annotations": [
            {"image_id": 7, "id": 1, "caption": "A boat\n"},
            {"image_id": 8, "id": 2, "caption": "A bird"},
            {"image_id": 7, "id": 3, "caption": "One boat"},
            {"image_id": 9, "id": 4, "caption": "of no image"},
            {"image_id": 7, "id": 5},
            "nonsense",
        ],
    }
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(data))
    references = read_references(path)
    assert references.texts == {"007.jpg": ("A boat", "One boat"), "008.jpg": ("A bird",)}
    assert references.problems.count == 3


def test_json_tables(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"a.jpg": ["one", "two"], "b.jpg": "three"}))
    assert read_references(path).texts == {"a.jpg": ("one", "two"), "b.jpg": ("three",)}
    path.write_text(json.dumps([{"file_name": "a.jpg", "rounds": ["alt", "one"]}]))
    assert read_references(path).texts == {"a.jpg": ("one",)}


def test_names_match_composed_or_not(tmp_path: Path) -> None:
    caption = {"file_name": "cafe\u0301.jpg", "caption": "A café"}
    captions = read_captions(write(tmp_path / "c.jsonl", [caption]))
    assert list(captions.texts) == ["caf\u00e9.jpg"]
    assert captions.files == {"caf\u00e9.jpg": "cafe\u0301.jpg"}  # as it is called on the disk


def test_files_that_hold_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(AltogetherError, match="holds no caption"):
        read_captions(tmp_path / "empty.jsonl")
    with pytest.raises(AltogetherError, match="holds no reference"):
        read_references(tmp_path / "empty.jsonl")
    with pytest.raises(AltogetherError, match="there is no file of captions"):
        read_captions(tmp_path / "absent.jsonl")
    with pytest.raises(AltogetherError, match="there is no file of references"):
        read_references(tmp_path / "absent.json")
    (tmp_path / "coco.json").write_text('{"annotations": []}')
    with pytest.raises(AltogetherError, match="no images"):
        read_references(tmp_path / "coco.json")
    (tmp_path / "bad.json").write_text("[")
    with pytest.raises(AltogetherError, match="is not a JSON file"):
        read_references(tmp_path / "bad.json")


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "a/../../secret.png", "."])
def test_a_name_may_not_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match="not in the image folder"):
        image_path(tmp_path, name)
    assert image_path(tmp_path, "a/./b.png") == tmp_path / "a" / "b.png"
