"""What tests of annotation pages share."""

from __future__ import annotations

from altogether_rt.annotation.answers import current_answers
from altogether_rt.annotation.work import Work
from altogether_rt.web.answers import read_answers
from tests.browser.driver import Browser

__all__ = ["READY", "counting", "in_sight", "wait_for"]

#: True when a page shows its first image.
READY = "return document.body.dataset.ready && document.getElementById('image').complete"


def counting(work: Work, name: str) -> dict[str, tuple[str, list[str]]]:
    rows = current_answers(read_answers(work.answer_path(name)), work.current_number)
    return {file_name: (row["text"], row["flags"]) for (file_name, _), row in rows.items()}


def wait_for(browser: Browser, element: str, words: str) -> None:
    browser.wait(
        "return document.getElementById(arguments[0]).textContent.includes(arguments[1])",
        element,
        words,
    )


def in_sight(browser: Browser, element: str) -> bool:
    """Whether all of an element lies within the window, and nothing covers its middle."""
    return bool(
        browser.script(
            "const e = document.getElementById(arguments[0]), box = e.getBoundingClientRect();"
            "const over = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);"
            "return box.height > 0 && box.top >= 0 && box.bottom <= innerHeight"
            " && e.contains(over)",
            element,
        )
    )
