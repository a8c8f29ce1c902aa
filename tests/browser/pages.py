"""What tests of annotation pages share."""

from __future__ import annotations

from altogether_rt.annotation.answers import current_answers
from altogether_rt.annotation.work import Work
from altogether_rt.web.answers import read_answers
from tests.browser.driver import Browser

__all__ = ["READY", "counting", "wait_for"]

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
