"""Alt-text files as people have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.data.alts import (
    MAX_ALT_CHARS,
    Alts,
    AltTable,
    alt_texts,
    clean_text,
    read_alts,
)
from altogether_rt.errors import AltogetherError

pytestmark = pytest.mark.lean


def write_lines(path: Path, *records: Any) -> Path:
    lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_json_lines(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "alts.jsonl",
        {"file_name": "a.jpg", "alt": "a boat", "lang": "en"},
        {"file_name": "./b/../c.jpg", "alt": ["one", "two"]},
        {"file_name": "d.jpg", "alts": ["x", "y"]},
        {"file_name": "e.jpg", "text": "from metadata.jsonl"},
        {"file_name": "f.jpg", "alt": None},
        {"file_name": "g.jpg", "alt": "", "text": "not this"},
        {"file_name": "a.jpg", "alt": "our boat"},
    )
    table = read_alts(path)
    assert {name: alts.texts for name, alts in table.by_name.items()} == {
        "a.jpg": ("a boat", "our boat"),
        "c.jpg": ("one", "two"),
        "d.jpg": ("x", "y"),
        "e.jpg": ("from metadata.jsonl",),
        "f.jpg": (),
        "g.jpg": (),
    }
    assert not table.problems
    assert table.get("z.jpg") == Alts()


@pytest.mark.parametrize(
    ("record", "texts"),
    [
        ({"alt": "a boat"}, ("a boat",)),
        ({"alts": ["a boat", "b"]}, ("a boat", "b")),
        ({"text": "a boat"}, ("a boat",)),
        ({"text": "third", "alts": ["second"], "alt": "first"}, ("first",)),
        ({"alt": "", "text": "not this"}, ("",)),
        ({"alt": None}, ()),
        ({"alt": float("nan")}, ()),
        ({"alts": [None, "b", float("nan")]}, ("b",)),
        ({"alts": []}, ()),
        ({"caption": "a boat"}, None),
    ],
)
def test_alt_texts_of_a_record(record: dict[str, Any], texts: tuple[str, ...] | None) -> None:
    assert alt_texts(record) == texts


@pytest.mark.parametrize("value", [7, 0.5, True, {"en": "a"}, [["a"]], ["a", 7], float("inf")])
def test_what_is_not_text_is_not_made_text(value: Any) -> None:
    with pytest.raises(ValueError, match="alts is neither a text nor a list of texts"):
        alt_texts({"alts": value})


def test_json_of_a_row() -> None:
    assert Alts().json == ""
    assert Alts(("a",)).json == "a"
    assert Alts(("a", "b")).json == ["a", "b"]


def test_bad_lines_are_counted_and_left_out(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "alts.jsonl",
        {"file_name": "a.jpg", "alt": "kept"},
        b'{"file_name": "b.jpg", "alt": "\xff\xfe"}',
        b"not json",
        b'["a list"]',
        {"alt": "no name"},
        {"file_name": "c.jpg"},
        {"file_name": "d.jpg", "alt": 7},
        {"file_name": "e.jpg", "alt": ["x", 7]},
        b"[" * 100_000,
        b"",
        {"file_name": "z.jpg", "alt": "kept too"},
    )
    table = read_alts(path)
    assert sorted(table.by_name) == ["a.jpg", "z.jpg"]
    assert table.problems.count == 8
    assert table.problems.examples[:4] == [
        "line 2: not UTF-8",
        "line 3: not JSON",
        "line 4: not a JSON object",
        "line 5: no file_name",
    ]
    assert str(table.problems).endswith("; and 3 more")


def test_endless_line_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("altogether_rt.data.alt_files.lines._MAX_LINE_BYTES", 1000)
    path = write_lines(
        tmp_path / "alts.jsonl",
        {"file_name": "a.jpg", "alt": "x" * 5000},
        {"file_name": "b.jpg", "alt": "kept"},
    )
    table = read_alts(path)
    assert list(table.by_name) == ["b.jpg"]
    assert table.problems.examples == ["line 1: longer than 1,000 bytes"]


def test_ten_megabytes_of_alt_text(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "alts.jsonl",
        {"file_name": "a.jpg", "alt": "word " * 2_000_000},
        {"file_name": "b.jpg", "alt": "\n" * 10_000_000},
        {"file_name": "c.jpg", "alt": ["x" * 5000, "y" * 5000, "z"]},
        {"file_name": "d.jpg", "alt": "short"},
    )
    table = read_alts(path)
    assert len(table.get("a.jpg").texts[0]) in (MAX_ALT_CHARS - 1, MAX_ALT_CHARS)
    assert table.get("a.jpg").truncated
    assert table.get("b.jpg") == Alts((), True)
    assert table.get("c.jpg").texts == ("x" * 5000, "y" * (MAX_ALT_CHARS - 5000))
    assert table.get("c.jpg").truncated
    assert table.get("d.jpg") == Alts(("short",), False)
    assert table.num_truncated == 3


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a\nb\r\n\tc", "a b c"),
        ("\x00a\x1b[31mb\x9f", "a [31mb"),
        ("a\u2028b\x85c", "a b c"),
        ("\ud83d lone", "\ufffd lone"),
        ("  naïve — 日本 🙂 ", "naïve — 日本 🙂"),
    ],
)
def test_clean_text(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean
    clean.encode("utf-8")


def test_json_file(tmp_path: Path) -> None:
    path = tmp_path / "alts.json"
    path.write_text(json.dumps({"a.jpg": "one", "b.jpg": ["x", "y"], "c.jpg": 3}))
    table = read_alts(path)
    assert table.get("a.jpg").texts == ("one",)
    assert table.get("b.jpg").texts == ("x", "y")
    assert table.problems.count == 1
    path.write_text(json.dumps([{"file_name": "a.jpg", "alt": "one"}, 3]))
    table = read_alts(path)
    assert table.get("a.jpg").texts == ("one",)
    assert table.problems.examples == ["record 2: not a JSON object"]
    for wrong in ("3", "{", "[" * 100_000):
        path.write_text(wrong)
        with pytest.raises(AltogetherError):
            read_alts(path)


@pytest.mark.parametrize(("suffix", "comma"), [(".csv", ","), (".tsv", "\t")])
def test_csv_file(tmp_path: Path, suffix: str, comma: str) -> None:
    path = tmp_path / f"alts{suffix}"
    two_lines = '"two\nlines"' if suffix == ".csv" else "two lines"  # no quotes in TSV
    rows = [
        ("file_name", "text"),
        ("a.jpg", two_lines),
        ("b.jpg", "x" * 200_000),
        ("c.jpg", "ok"),
    ]
    path.write_text("\n".join(comma.join(row) for row in rows), "utf-8-sig")
    table = read_alts(path)
    assert table.get("a.jpg").texts == ("two lines",)
    assert table.get("c.jpg").texts == ("ok",)
    assert table.problems.count == 1  # beyond csv's own limit of a field


def test_byte_order_mark(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"file_name": "a.jpg", "alt": "x"}')
    assert read_alts(path).get("a.jpg").texts == ("x",)


def test_names_match_however_they_are_written(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9.jpg", "cafe\u0301.jpg"
    path = write_lines(
        tmp_path / "a.jsonl",
        {"file_name": composed, "alt": "coffee"},
        {"file_name": f"{tmp_path}/sub/b.jpg", "alt": "absolute"},
    )
    table = read_alts(path, tmp_path)
    assert table.get(decomposed).texts == ("coffee",)
    assert table.get("sub/b.jpg").texts == ("absolute",)
    assert not table.without_image([decomposed, "sub/b.jpg"])


def test_alts_without_image() -> None:
    table = AltTable({f"{i}.jpg": Alts(("x",)) for i in range(9)})
    missing = table.without_image(["0.jpg", "5.jpg", "unrelated.jpg"])
    assert missing.count == 7
    assert missing.examples == ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "6.jpg"]


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(AltogetherError, match="no alt-text file"):
        read_alts(tmp_path / "absent.jsonl")


def test_published_alts(shared_data: Path) -> None:
    table = read_alts(shared_data / "alts" / "alts.jsonl")
    assert len(table.by_name) == 93
    assert not table.problems
