"""Rows of the output file: what is in them, and which lines count as rows."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest

from altogether_rt.captions import Caption, CaptionParams
from altogether_rt.data import rows
from altogether_rt.data.alts import MAX_ALT_CHARS, Alts, AltTable
from altogether_rt.data.rows import RunStamp, caption_fault, caption_row, encode_row, parse_row
from altogether_rt.wording.checks import CaptionChecker

pytestmark = pytest.mark.lean

STAMP = RunStamp("f7b1f0ca6675", CaptionParams(50, 0.2, 0.7, 3))


def caption(text: str = "A boat.", truncated: bool = False) -> Caption:
    return Caption(text, "eos", 4, truncated, 17)


def test_a_row_in_bytes() -> None:
    row = caption_row("a.jpg", Alts(("x",)), caption(), STAMP)
    assert encode_row(row) == (
        b'{"file_name": "a.jpg", "alt": "x", "caption": "A boat.", "finish_reason": "eos", '
        b'"tokens": 4, "alt_truncated": false, "bundle": "f7b1f0ca6675", "params": '
        b'{"max_new_tokens": 50, "temperature": 0.2, "top_p": 0.7, "seed": 3}, "seed": 17}\n'
    )


def test_what_came_later_stands_in_a_row_only_where_it_says_something() -> None:
    """Rows of earlier versions are compared with those of this one."""
    params = CaptionParams(50, 0.2, 0.7, 3, loop_repeats=3, style="alt", prompt="What is it?")
    found = dataclasses.replace(caption(), finish_reason="loop", shortened="clause")
    row = caption_row("a.jpg", Alts(("our boat",)), found, RunStamp("b", params), CaptionChecker())
    assert row["params"] == {
        "max_new_tokens": 50,
        "temperature": 0.2,
        "top_p": 0.7,
        "seed": 3,
        "loop_repeats": 3,
        "style": "alt",
        "prompt": "What is it?",
    }
    assert row["shortened"] == "clause"
    assert row["checks"] == {"alt_words": [1, 1], "flags": ["loop"]}
    assert list(row)[-1] == "checks"
    plain = caption_row("a.jpg", Alts(("our boat",)), caption(), STAMP)
    assert not {"shortened", "checks"} & plain.keys()
    assert plain["params"] == {"max_new_tokens": 50, "temperature": 0.2, "top_p": 0.7, "seed": 3}


def test_fast_decoding_is_written_only_where_it_was_used() -> None:
    assert "fast_jpeg" not in STAMP.fields()
    assert RunStamp(STAMP.bundle, STAMP.params, fast_jpeg=True).fields()["fast_jpeg"] is True


@pytest.mark.parametrize("by_reader", [False, True])
@pytest.mark.parametrize("by_tokenizer", [False, True])
def test_an_alt_text_is_truncated_by_whoever_cuts_it(by_reader: bool, by_tokenizer: bool) -> None:
    row = caption_row("a", Alts((), by_reader), caption(truncated=by_tokenizer), STAMP)
    assert row["alt_truncated"] is (by_reader or by_tokenizer)


def test_a_caption_is_one_line_of_valid_text() -> None:
    row = caption_row("a", Alts(), caption("a\nb\x00c \ud83d"), STAMP)
    assert row["caption"] == "a b c \ufffd"


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029", "\ud83d"])
def test_characters_that_end_lines_for_some_readers_are_escaped(character: str) -> None:
    line = encode_row({"file_name": f"a{character}b", "caption": "é"})
    assert line.isascii()
    assert len(line.decode().splitlines()) == 1
    assert parse_row(line) == {"file_name": f"a{character}b", "caption": "é"}
    assert encode_row({"file_name": "é"}) == '{"file_name": "é"}\n'.encode()


@pytest.mark.parametrize(
    "content",
    [
        {"caption": "no name"},
        {"file_name": 3, "caption": "c"},
        {"file_name": "a"},
        {"file_name": "a", "caption": None},
        {"file_name": "a", "error": "text"},
        {"file_name": "a", "error": {}},
        {"file_name": "a", "error": {"class": 3}},
        ["file_name", "caption"],
    ],
)
def test_lines_that_are_not_rows(content: object) -> None:
    assert parse_row(json.dumps(content).encode() + b"\n") is None


def test_only_a_whole_line_is_a_row() -> None:
    line = encode_row({"file_name": "a", "caption": "c"})
    assert parse_row(line) == parse_row(line[:-1]) == {"file_name": "a", "caption": "c"}
    for cut in range(2, len(line)):
        assert parse_row(line[:-cut]) is None


def test_a_line_of_any_length_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 64)
    row = encode_row({"file_name": "a", "caption": "c"})
    long = b"x" * 64 + row  # its end looks like a row, and is none
    found = list(rows.read_rows(io.BytesIO(row + long + b"y" * 64 + b"\n" + row[:-1])))
    sizes = [len(row), len(long), 65, len(row) - 1]
    assert [(offset, size) for offset, _, size in found] == [
        (sum(sizes[:index]), size) for index, size in enumerate(sizes)
    ]
    assert [found_row is not None for _, found_row, _ in found] == [True, False, False, True]


def test_the_length_of_alt_texts_that_are_kept() -> None:
    assert MAX_ALT_CHARS == 8192  # rows and captions of long alt-texts depend on it
    table = AltTable()
    for text in ("x" * 9000, "more", "still more"):
        table.add("a", [text])
    assert table.get("a") == Alts(("x" * 8192,), True)
    assert table.num_truncated == 1


@pytest.mark.parametrize(("stored", "asked"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_either_unicode_form(stored: str, asked: str) -> None:
    names = {"NFC": "caf\u00e9.jpg", "NFD": "cafe\u0301.jpg"}
    table = AltTable({names[stored]: Alts(("coffee",))})
    assert table.get(names[asked]).texts == ("coffee",)


@pytest.mark.parametrize(
    ("caption", "reason", "alt", "fault"),
    [
        ("", "eos", "", "empty"),
        (" ", "length", "", "empty"),
        ("a boat a boat a boat", "length", "", "loop"),
        ("Red: a boat and a boat and a boat and a", "length", "", "loop"),
        ("no no no", "eos", "", None),  # it came to an end by itself
        ("a boat", "loop", "", "loop"),  # it was ended, and cut
        ("a boat on a lake with a boat", "length", "", None),
        ("My Boat.", "eos", "my boat", "same_as_alt"),
        ("My boat", "eos", ["x", "my boat"], "same_as_alt"),
        ("My boat at sea", "eos", "my boat", None),
    ],
)
def test_captions_that_are_hardly_any(
    caption: str, reason: str, alt: str | list[str], fault: str | None
) -> None:
    assert caption_fault({"caption": caption, "finish_reason": reason, "alt": alt}) == fault
