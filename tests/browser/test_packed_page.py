"""The packed page in a browser: from disk, without a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from altogether_rt.annotation.importing import import_answers
from altogether_rt.annotation.pack import tasks_to_pack, write_pack
from altogether_rt.annotation.work import Work
from tests.browser.driver import Browser
from tests.browser.pages import READY, counting, wait_for

Check = Callable[[], None]


def test_a_packed_page_works_from_disk_and_its_answers_come_back(
    browser: Browser,
    work: Work,
    tmp_path: Path,
    downloads: Path,
    assert_accessible: Check,
    assert_only_loopback: Callable[[str], None],
) -> None:
    page = tmp_path / "ben.html"
    write_pack(work, "ben", tasks_to_pack(work, "ben"), page)
    browser.open(page.as_uri())
    browser.wait(READY)
    assert browser.script("return document.getElementById('image').naturalWidth") == 256
    assert_accessible()
    browser.type(" by Ben")
    browser.press("Ctrl+Enter")
    wait_for(browser, "count", "1 of 4")
    browser.press("Ctrl+a", "Backspace", "Ctrl+Enter")
    wait_for(browser, "error", "The text is empty")
    browser.type("second")
    browser.press("Alt+1", "Ctrl+Enter")
    wait_for(browser, "count", "2 of 4")
    browser.type(" third")
    browser.press("Ctrl+Enter")
    wait_for(browser, "count", "3 of 4")
    browser.press("Alt+u")
    wait_for(browser, "count", "2 of 4")
    browser.press("Alt+r")
    browser.open(page.as_uri())  # as after closing the browser
    browser.wait(READY)
    assert browser.text("count") == "2 of 4 answered" and browser.text("file") == "0002.png"
    browser.press("Alt+d")
    path = downloads / "answers-ben-round2.jsonl"
    browser.until(path.is_file, "the download")
    assert_only_loopback(page.as_uri())
    imported = import_answers(work, path)
    assert imported.taken == {"ben": 4} and not imported.refused
    first = work.round().tasks[0].text
    assert counting(work, "ben") == {
        "0000.png": (f"{first} by Ben", []),
        "0001.png": ("second", ["cannot_verify"]),
    }
    rows: list[Any] = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(row["guideline"] == work.guideline.stamp for row in rows)
