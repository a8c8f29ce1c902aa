"""The contact sheet in a browser: from disk, readable to everyone, captions edited and saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from altogether_rt.data.rows import Row, encode_row
from altogether_rt.data.sinks.sheet import write_sheet
from tests.browser.driver import Browser

Check = Callable[[], None]

EVIL = "<script>document.title='evil'</script>\" onerror='x' &amp; \u202e\u2028 \N{PILE OF POO}"

ROWS: list[Row] = [
    {"file_name": "a.png", "alt": "our boat", "caption": "A blue boat.", "finish_reason": "eos",
     "tokens": 4, "seed": 2**64 - 1, "params": {"temperature": 0.0}},
    {"file_name": "gone.png", "alt": ["one", "two"], "error": {"class": "empty", "message": "No."}},
    {"file_name": f"b{EVIL}.png", "alt": EVIL, "caption": EVIL, "edited": True},
    {"file_name": "c\udcff.png", "alt": None, "caption": "", "finish_reason": "length"},
    {"file_name": "long.png", "alt": "", "caption": "word " * 1000},
]  # fmt: skip


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    Image.new("RGB", (300, 200), "navy").save(tmp_path / "a.png")
    Image.new("RGB", (120, 400), "tan").save(tmp_path / "long.png")
    (tmp_path / "c.jsonl").write_bytes(b"".join(map(encode_row, ROWS)))
    write_sheet(tmp_path / "c.jsonl", tmp_path, tmp_path / "sheet.html")
    return tmp_path / "sheet.html"


def edit(browser: Browser, index: int, text: str, *keys: str) -> None:
    browser.script("document.querySelectorAll('.text')[arguments[0]].focus()", index)
    browser.press("Ctrl+a")
    browser.type(text)
    if keys:
        browser.press(*keys)


def saved_rows(browser: Browser, downloads: Path) -> list[dict[str, Any]]:
    browser.script("document.getElementById('save').click()")
    browser.until(lambda: list(downloads.glob("*.jsonl")), "the file is there")
    (path,) = downloads.glob("*.jsonl")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1366, 400])
def test_everyone_can_read_and_edit_it(
    browser: Browser, sheet: Path, assert_accessible: Check, colours: str, width: int
) -> None:
    browser.colour_scheme(colours)
    browser.resize(width, 820)
    browser.open(sheet.as_uri())
    assert_accessible()
    edit(browser, 0, "A green boat.")
    assert_accessible()
    alts = browser.script("return [...document.querySelectorAll('img')].map(i => i.alt)")
    assert alts[0] == "A green boat."
    assert alts[1].startswith("word word")
    fits = "return document.documentElement.scrollWidth <= window.innerWidth"
    assert browser.script(fits), "nothing is wider than the screen"


def test_edited_captions_are_saved_as_rows(
    browser: Browser, sheet: Path, downloads: Path, assert_only_loopback: Callable[[str], None]
) -> None:
    browser.open(sheet.as_uri())
    edit(browser, 0, 'A green boat, "Graio".', "Enter")
    edit(browser, 1, "second", "Escape")
    assert browser.text("status") == "1 caption changed, not saved"
    edit(browser, 2, "third")
    rows = saved_rows(browser, downloads)
    before, empty = ROWS[0], ROWS[3]
    assert rows == [
        {**before, "caption": 'A green boat, "Graio".', "edited": True},
        ROWS[1],
        ROWS[2],
        {**empty, "caption": "third", "edited": True},
        ROWS[4],
    ]
    assert list(rows[0]) == [*before, "edited"]
    assert browser.text("status").startswith("2 captions changed; saved as ")
    assert browser.script("return document.title").startswith("Captions of")
    assert_only_loopback("file:")


def test_nothing_changed_is_the_file_as_it_was_and_an_empty_text_is_not_taken(
    browser: Browser, sheet: Path, downloads: Path
) -> None:
    browser.open(sheet.as_uri())
    edit(browser, 0, "", "Backspace", "Enter")
    assert browser.text("status") == "0 captions changed; 1 empty, to be kept as before"
    assert saved_rows(browser, downloads) == ROWS


def test_text_that_is_pasted_is_text(browser: Browser, sheet: Path, downloads: Path) -> None:
    browser.open(sheet.as_uri())
    browser.script(
        "const e = document.querySelector('.text'); e.focus();"
        "document.execCommand('selectAll');"
        "document.execCommand('insertText', false, 'two\\nlines <b>x</b> \u2028end');"
    )
    assert browser.script("return document.querySelector('.text b')") is None
    assert saved_rows(browser, downloads)[0]["caption"] == "two lines <b>x</b> end"
