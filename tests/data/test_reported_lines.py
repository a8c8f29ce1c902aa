"""The line, record or entry that a message names is the one where the user finds the mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from altogether_rt.data.alts import read_alts
from altogether_rt.data.rows import encode_row, read_rows
from altogether_rt.data.sinks.jsonl import JsonlSink
from altogether_rt.errors import AltogetherError

pytestmark = pytest.mark.lean

GOOD = '{"file_name": "a.jpg", "alt": "x"}'


def problems(path: Path, text: str) -> list[str]:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return read_alts(path).problems.examples


def test_lines_of_json_are_counted_from_one_and_blank_ones_count(tmp_path: Path) -> None:
    path = tmp_path / "alts.jsonl"
    assert problems(path, f"{{\n{GOOD}\n\n  \n[1]\n{GOOD}\n\udcff\n") == [
        "line 1: not JSON",
        "line 5: not a JSON object",
        "line 7: not UTF-8",
    ]
    assert problems(path, f'{GOOD}\n\n{{"alt": "x"}}\n{{"file_name": ""}}') == [
        "line 3: no file_name",
        "line 4: no file_name",
    ]
    assert problems(path, '\n{"file_name": "b"}\n{"file_name": "b", "alts": ["x", 1]}\n') == [
        "line 2: no alt, alts, text",
        "line 3: alts is neither a text nor a list of texts",
    ]


def test_a_line_that_is_too_long_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("altogether_rt.data.alt_files.lines._MAX_LINE_BYTES", 50)
    text = f"{GOOD}\n{'x' * 120}\n{{\n{'y' * 49}\n{'z' * 50}\n{{"
    assert problems(tmp_path / "alts.jsonl", text) == [
        "line 2: longer than 50 bytes",
        "line 3: not JSON",
        "line 4: not JSON",  # 50 bytes with its end
        "line 5: longer than 50 bytes",
        "line 6: not JSON",
    ]


def test_a_byte_order_mark_is_only_at_the_start(tmp_path: Path) -> None:
    assert problems(tmp_path / "alts.jsonl", f"\ufeff{GOOD}\n\ufeff{GOOD}\n") == [
        "line 2: not JSON"
    ]


def test_records_of_a_list_are_counted_from_one(tmp_path: Path) -> None:
    records = [{"file_name": "a"}, {"file_name": "b", "alt": "x"}, 3, {"alt": "x"}]
    assert problems(tmp_path / "alts.json", json.dumps(records)) == [
        "record 1: no alt, alts, text",
        "record 3: not a JSON object",
        "record 4: no file_name",
    ]


def test_entries_of_an_object_are_named(tmp_path: Path) -> None:
    table = {"a.jpg": "x", "b.jpg": 1, "c" * 100: [2]}
    assert problems(tmp_path / "alts.json", json.dumps(table)) == [
        "entry 'b.jpg': alt is neither a text nor a list of texts",
        f"entry {'c' * 80!r}: alt is neither a text nor a list of texts",
    ]


def test_rows_of_a_table_are_named_by_their_first_line(tmp_path: Path) -> None:
    text = 'file_name,alt\n,no name\na.jpg,x\n\n,no name\n"b\nc.jpg","two\nlines"\n,no name\n'
    assert problems(tmp_path / "alts.csv", text) == [
        "line 2: no file_name",
        "line 5: no file_name",
        "line 9: no file_name",
    ]
    long = "x" * 200_000
    assert problems(tmp_path / "alts.csv", f"file_name,alt\na,x\nb,{long}\n,x\n") == [
        "line 3: field larger than field limit (131072)",
        "line 4: no file_name",
    ]


def test_the_line_of_an_output_that_is_no_row(tmp_path: Path) -> None:
    out = tmp_path / "captions.jsonl"
    row = encode_row({"file_name": "a", "alt": "", "caption": "c"})
    for number in (1, 2, 3):
        lines = [row] * 3
        lines[number - 1] = b"{}\n"
        out.write_bytes(b"".join(lines))
        with JsonlSink(out) as sink:
            assert sink.recover(lambda row: None) == {"a"}
        assert f"line {number} of captions.jsonl" in sink.problems.examples
    for number in (1, 2):
        lines = [row, b"{}\n", b"[]\n"] if number == 2 else [b"{}\n", row, b"[]\n"]
        out.write_bytes(b"".join(lines))
        with JsonlSink(out) as sink, pytest.raises(AltogetherError) as caught:
            sink.recover(lambda row: None)
        assert str(caught.value).startswith(f"line {number} of {out} is not a row of captions,")


def test_offsets_and_lengths_of_rows(tmp_path: Path) -> None:
    rows = [
        encode_row({"file_name": name, "alt": "", "caption": "naïve \u2028 🙂" * index})
        for index, name in enumerate(("a", "b\udc80", "c"))
    ]
    path = tmp_path / "rows"
    path.write_bytes(rows[0] + b"{}\n" + rows[1] + rows[2][:-1])
    with path.open("rb") as file:
        found = list(read_rows(file))
    first, bad, second = len(rows[0]), 3, len(rows[1])
    starts = [0, first, first + bad, first + bad + second]
    assert [(offset, size) for offset, _, size in found] == list(
        zip(starts, (first, bad, second, len(rows[2]) - 1), strict=True)
    )
    assert [row and row["file_name"] for _, row, _ in found] == ["a", None, "b\udc80", "c"]


def test_rows_of_a_table_may_be_shorter_or_longer_than_its_header(tmp_path: Path) -> None:
    path = tmp_path / "alts.csv"
    path.write_text("file_name,alt\na.jpg\nb.jpg,x,more\n")
    table = read_alts(path)
    assert not table.problems
    assert (table.get("a.jpg").texts, table.get("b.jpg").texts) == ((), ("x,more",))
    assert table.notes.joined.examples == ["line 3"]


def test_a_json_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "alts.json"
    path.write_bytes(b'\xef\xbb\xbf{"a.jpg": "x"}')
    assert read_alts(path).get("a.jpg").texts == ("x",)
