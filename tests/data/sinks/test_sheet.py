"""The contact sheet: complete, self-contained, and safe to open."""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from altogether_rt.data.rows import Row, encode_row
from altogether_rt.data.sinks.sheet import write_sheet

pytestmark = pytest.mark.lean

EVIL = '<script>alert(1)</script>" onerror="x'


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def make(tmp_path: Path, rows: list[Row], **options: Any) -> tuple[int, Tags]:
    rows_path = tmp_path / "c.jsonl"
    rows_path.write_bytes(b"".join(map(encode_row, rows)))
    shown = write_sheet(rows_path, tmp_path, tmp_path / "new" / "sheet.html", **options)
    assert os.listdir(tmp_path / "new") == ["sheet.html"]
    return shown, Tags((tmp_path / "new" / "sheet.html").read_text("utf-8"))


def test_shows_image_alt_and_caption(tmp_path: Path) -> None:
    Image.new("RGB", (900, 600), "navy").save(tmp_path / "a.png")
    rows: list[Row] = [
        {"file_name": "a.png", "alt": ["one", "two"], "caption": "A blue field.",
         "finish_reason": "length", "alt_truncated": True},
        {"file_name": "b.png", "alt": "", "error": {"class": "not_an_image", "message": "No."}},
    ]  # fmt: skip
    shown, page = make(tmp_path, rows)
    assert shown == 2
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 1
    assert str(images[0]["src"]).startswith("data:image/jpeg;base64,")
    assert (images[0]["width"], images[0]["height"]) == ("480", "320")
    for text in ("one", "two", "A blue field.", "not an image", "No.", "alt-text cut",
                 "1 captioned, 1 could not be read"):  # fmt: skip
        assert text in page.text


def test_everything_is_escaped(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"file_name": EVIL, "alt": EVIL, "caption": EVIL},
        {"file_name": "caf\udce9", "alt": [EVIL], "error": {"class": EVIL, "message": EVIL}},
    ]
    _, page = make(tmp_path, rows)
    assert page.text.count("<script>alert(1)</script>") == 6
    assert [tag for tag, _ in page.tags].count("script") == 1  # ours
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]


def test_nothing_is_fetched(tmp_path: Path) -> None:
    _, page = make(tmp_path, [{"file_name": "http://x/a.png", "alt": "", "caption": "c"}])
    html = (tmp_path / "new" / "sheet.html").read_text()
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)[-1]
    style = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)[0]
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?(?!data:)", html.replace(script, ""))
    assert not re.search(r"fetch|XMLHttpRequest|import|eval|https?:", script)
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv"))
    hashes = [b64encode(sha256(text.encode()).digest()).decode() for text in (style, script)]
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; "
        f"script-src 'sha256-{hashes[1]}'; base-uri 'none'; form-action 'none'"
    )


def test_a_picture_carries_its_caption(tmp_path: Path) -> None:
    Image.new("RGB", (9, 6), "navy").save(tmp_path / "a.png")
    _, page = make(tmp_path, [{"file_name": "a.png", "alt": "boat", "caption": f"A {EVIL}"}])
    (image,) = (attributes for tag, attributes in page.tags if tag == "img")
    assert image["alt"] == f"A {EVIL}"


@pytest.mark.parametrize(
    "row",
    [
        {"file_name": "a\udcff'\"<", "caption": EVIL, "seed": 2**64 - 1, "alt": [EVIL, "\u2028"]},
        {"caption": "first", "file_name": "b"},
        {"file_name": "c", "caption": "last", "edited": True},
    ],
)
def test_a_row_can_be_put_together_again_around_another_caption(
    tmp_path: Path, row: dict[str, Any]
) -> None:
    _, page = make(tmp_path, [row])
    (card,) = (attributes for tag, attributes in page.tags if tag == "article")
    assert json.loads(str(card["data-row"])) == row
    edited = json.loads(f'{card["data-head"]}"new"{card["data-tail"]}, "edited": true}}')
    assert edited == {**row, "caption": "new", "edited": True}
    assert "\n" not in str(card["data-row"])


def test_number_of_rows_is_capped_with_a_note(tmp_path: Path) -> None:
    rows: list[Row] = [{"file_name": f"{i}.png", "alt": "", "caption": "c"} for i in range(9)]
    shown, page = make(tmp_path, rows, max_rows=4)
    assert shown == 4
    assert sum(tag == "article" for tag, _ in page.tags) == 4
    assert "9 captioned; the first 4 are shown" in page.text


@pytest.mark.parametrize("length", [10, 100_000])
def test_long_texts_are_cut(tmp_path: Path, length: int) -> None:
    _, page = make(tmp_path, [{"file_name": "a", "alt": "x" * length, "caption": "c"}])
    assert page.text.count("x" * 10) <= 120


def test_captions_that_are_hardly_any_are_marked_and_counted(tmp_path: Path) -> None:
    loop = {"caption": "a red " * 20, "finish_reason": "length"}
    rows: list[Row] = [
        {"file_name": "a.png", "alt": "", "caption": ""},
        {"file_name": "b.png", "alt": "", **loop},
        {"file_name": "c.png", "alt": ["x", "A boat"], "caption": "a boat."},
        {"file_name": "d.png", "alt": "A boat", "caption": "A red boat at sea."},
    ]
    _, page = make(tmp_path, rows)
    assert "4 captioned, 3 of them doubtful" in page.text
    for remark in ("the caption is empty", "it repeats itself", "equal to the alt-text"):
        assert page.text.count(remark) == 1


def test_notes_stand_in_the_head_once_and_escaped(tmp_path: Path) -> None:
    row: Row = {"file_name": "a.png", "alt": "", "caption": "A boat."}
    _, page = make(tmp_path, [row, row], notes=["It knows <b>scenes</b> alone."])
    assert page.text.count("It knows <b>scenes</b> alone.") == 1
    assert "b" not in [tag for tag, _ in page.tags]


def test_checks_are_badges(tmp_path: Path) -> None:
    rows: list[Row] = [
        {
            "file_name": "a.png",
            "alt": "",
            "caption": "Sure, in Rome.",
            "shortened": "word",
            "checks": {"new_names": ["Rome", EVIL], "flags": ["preamble", "new_names"]},
        },
        {"file_name": "b.png", "alt": "", "caption": "A boat.", "checks": {"flags": []}},
        {"file_name": "c.png", "alt": "", "caption": "A boat."},
        # What somebody else may have written there.
        {"file_name": "d.png", "alt": "", "caption": "x", "checks": {"flags": ["nonsense", 3]}},
        {"file_name": "e.png", "alt": "", "caption": "x", "checks": {"flags": "loop"}},
        {"file_name": "f.png", "alt": "", "caption": "x", "checks": 7},
        {"file_name": "g.png", "alt": "", "caption": "x", "checks": {"flags": ["new_names"]}},
    ]
    _, page = make(tmp_path, rows)
    badges = [attributes["title"] for tag, attributes in page.tags if tag == "li"]
    assert len(badges) == 3
    assert "words about the answer or the image" in str(badges[0])
    assert f"new names: Rome, {EVIL}" in page.text
    assert "shortened" in page.text
    assert "7 captioned, 2 marked by the checks" in page.text
