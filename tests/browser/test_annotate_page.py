"""The annotation page in a browser: by keyboard alone, from this machine alone, for everybody."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from altogether_rt.annotation.work import Work
from tests.annotation.people import begin, serving
from tests.browser.driver import Browser
from tests.browser.pages import READY, counting, in_sight, wait_for

Check = Callable[[], None]


@contextmanager
def command(work: Work, name: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`annotate serve` as a process: its address, and itself to kill."""
    line = [
        sys.executable, "-m", "altogether_rt.cli.main",
        "annotate", "serve", str(work.folder), "--as", name, "--quiet",
    ]  # fmt: skip
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def test_types_saves_undoes_and_resumes_by_keyboard_alone(
    browser: Browser, work: Work, assert_only_loopback: Callable[[str], None]
) -> None:
    texts = [task.text for task in work.round().tasks]
    with command(work, "anna") as (url, process):
        browser.open(url)
        browser.wait(READY)
        assert browser.focused() == "text" and browser.value("text") == texts[0]
        browser.type(", by Anna.")
        assert browser.text("difference") == f"{texts[0]}, by Anna."
        assert "2 added" in browser.text("counts")
        browser.press("Ctrl+Enter")
        wait_for(browser, "status", "Saved 0000.png")
        assert browser.text("file") == "0001.png" and browser.text("count") == "1 of 4 answered"
        browser.press("Ctrl+a", "Backspace")
        browser.type("A mistake.")
        browser.press("Alt+1", "Ctrl+Enter")
        wait_for(browser, "status", "Saved 0001.png")
        assert counting(work, "anna") == {
            "0000.png": (f"{texts[0]}, by Anna.", []),
            "0001.png": ("A mistake.", ["cannot_verify"]),
        }
        browser.press("Alt+u")
        wait_for(browser, "status", "Took back the answer to 0001.png")
        assert browser.text("file") == "0001.png" and browser.value("text") == texts[1]
        assert list(counting(work, "anna")) == ["0000.png"]
        browser.press("Alt+y")  # and the mistaken text is not lost either
        assert browser.value("text") == "A mistake."
        browser.press("Alt+r")
        assert browser.value("text") == texts[1]
        browser.press("Ctrl+Enter")
        wait_for(browser, "status", "Saved 0001.png")
        assert_only_loopback(url)
        process.send_signal(signal.SIGKILL)
        process.wait()
        browser.type(" lost")
        browser.press("Ctrl+Enter")
        wait_for(browser, "error", "does not answer")
        assert browser.value("text").endswith(" lost")  # still there to be saved
        browser.press("Alt+r")
        browser.open("about:blank")
        browser.requests()
        browser.console()
    with command(work, "anna") as (url, _):
        browser.open(url)
        browser.wait(READY)
        assert browser.text("file") == "0002.png" and browser.text("count") == "2 of 4 answered"
        browser.press("PageUp")
        wait_for(browser, "file", "0001.png")
        assert browser.value("text") == texts[1] and browser.text("mark") == "saved"
        browser.press("Alt+u")
        wait_for(browser, "status", "Took back the answer to 0001.png")
        browser.press("Ctrl+Enter")
        wait_for(browser, "count", "2 of 4")
        for count, name in ((3, "0002.png"), (4, "0003.png")):
            wait_for(browser, "file", name)
            browser.press("Alt+3", "Ctrl+Enter")
            wait_for(browser, "count", f"{count} of 4 answered")
        wait_for(browser, "status", "Every image has an answer.")
        assert_only_loopback(url)
    assert [flags for _, flags in counting(work, "anna").values()] == [
        *([], [], ["unusable"], ["unusable"]),
    ]


def test_messages_are_in_sight_on_a_low_screen(browser: Browser, work: Work) -> None:
    browser.resize(1366, 620)  # of a laptop's 768 pixels, what the browser itself leaves
    with serving(work, "anna") as anna:
        browser.open(anna.url)
        browser.wait(READY)
        browser.press("Ctrl+a", "Backspace", "Ctrl+Enter")
        wait_for(browser, "error", "is empty")
        assert in_sight(browser, "error")
        browser.press("Alt+r", "Ctrl+Enter")
        wait_for(browser, "status", "Saved 0000.png")
        assert in_sight(browser, "status")
        browser.script("scrollTo(0, document.body.scrollHeight)")
        assert in_sight(browser, "save") and in_sight(browser, "status")


def test_every_control_is_reached_by_tab(browser: Browser, work: Work) -> None:
    with serving(work, "anna") as anna:
        browser.open(anna.url)
        browser.wait(READY)
        controls = browser.script(
            "return [...document.querySelectorAll('button, input, textarea, summary, #frame')]"
            ".filter(e => e.checkVisibility() && !e.disabled).length"
        )
        seen = set()
        for _ in range(2 * controls):
            browser.press("Tab")
            seen.add(
                browser.script(
                    "const e = document.activeElement;"
                    "return e.matches('button, input, textarea, summary, #frame')"
                    " ? [...document.querySelectorAll('*')].indexOf(e) : null"
                )
            )
        assert len(seen - {None}) == controls


def test_drafts_stay_while_one_goes_back_and_forth(browser: Browser, work: Work) -> None:
    first = work.round().tasks[0].text
    with serving(work, "anna") as anna:
        browser.open(anna.url)
        browser.wait(READY)
        browser.type(" draft")
        assert browser.text("mark") == "not saved"
        browser.press("PageDown")
        wait_for(browser, "file", "0001.png")
        browser.press("PageUp")
        wait_for(browser, "file", "0000.png")
        assert browser.value("text") == f"{first} draft" and browser.text("mark") == "not saved"
        assert counting(work, "anna") == {}
        browser.press("Alt+r")


def test_zoom_guideline_and_keys(browser: Browser, work: Work) -> None:
    width = "return document.getElementById('image').getBoundingClientRect().width"
    with serving(work, "anna") as anna:
        browser.open(anna.url)
        browser.wait(READY)
        assert browser.text("size") == "256 × 256 px"
        browser.press("Alt+z")
        assert browser.script(width) == 256 and browser.text("zoom") == "100 %"
        browser.press("Alt+=", "Alt+=", "Alt+=")
        assert browser.script(width) == 256 * 8
        browser.press("Alt+p", "Right", "Right")
        browser.wait("return document.getElementById('frame').scrollLeft > 0")
        browser.press("Alt+-")
        assert browser.script(width) == 256 * 4
        browser.press("Alt+z", "Alt+t")
        assert browser.text("zoom") == "Fit" and browser.focused() == "text"
        assert "Edit, do not rewrite" in browser.text("rules")
        assert browser.text("version") == work.guideline.stamp
        browser.press("Alt+g")
        assert not browser.script("return document.getElementById('guideline').open")
        browser.press("Alt+k")
        assert browser.script("return document.getElementById('help').open")
        browser.press("Ctrl+Enter", "Alt+1")  # nothing happens behind it
        browser.press("Escape")
        assert not browser.script("return document.getElementById('help').open")
        assert counting(work, "anna") == {}
        assert browser.text("mark") == ""


def test_names_that_went_missing_are_pointed_at(browser: Browser, scenes: Path) -> None:
    (scenes / "names.json").write_text(json.dumps({"0000.png": "the Marigold at Porto Lindo"}))
    work, _ = begin(scenes, scenes.parent / "names", alts=Path("names.json"))
    with serving(work, "anna") as anna:
        browser.open(anna.url)
        browser.wait(READY)
        assert browser.text("names") == ""
        browser.press("Ctrl+a")
        browser.type("the marigold")
        assert browser.text("names") == "In the alt-text and not in your text: Porto Lindo"
        browser.press("Alt+r")


def test_texts_are_shown_as_texts(
    browser: Browser, scenes: Path, assert_only_loopback: Callable[[str], None]
) -> None:
    hostile = "<img src=http://example.com/x onerror=alert(1)> \u202egnp.exe"
    (scenes / "x.json").write_text(json.dumps({"0000.png": hostile}))
    work, _ = begin(scenes, scenes.parent / "hostile", alts=Path("x.json"))
    with serving(work, "anna") as anna:
        browser.open(anna.url)
        browser.wait(READY)
        assert "<img src=http://example.com" in browser.text("alts")
        assert browser.script("return document.images.length") == 1
        assert_only_loopback(anna.url)


def test_a_changed_image_says_so(browser: Browser, work: Work, scenes: Path) -> None:
    (scenes / "0000.png").write_bytes((scenes / "0001.png").read_bytes())
    with serving(work, "anna") as anna:
        browser.open(anna.url)
        wait_for(browser, "missing", "0000.png has changed since the round began")
        browser.press("Ctrl+Enter")
        wait_for(browser, "error", "0000.png has changed since the round began")
        assert counting(work, "anna") == {}
        browser.console()  # the refusals, which the browser reports


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1680, 1024, 390])
def test_axe_finds_no_serious_fault(
    browser: Browser, work: Work, assert_accessible: Check, scheme: str, width: int
) -> None:
    browser.colour_scheme(scheme)
    browser.resize(width, 900)
    with serving(work, "anna") as anna:
        anna.save(1, "saved")
        browser.open(anna.url)
        browser.wait(READY)
        assert_accessible()
        browser.press("Ctrl+a")
        browser.type("a changed text")
        browser.press("Alt+2", "Alt+u", "Alt+k")
        assert_accessible()
        browser.press("Escape", "Alt+r")
        overflow = "return document.documentElement.scrollWidth > innerWidth"
        assert not browser.script(overflow)


def test_words_are_told_apart_as_python_does(browser: Browser, work: Work) -> None:
    """The page's difference counts what the report counts."""
    from altogether_rt.annotation.words import change_between

    pairs = [
        ("a red boat", "a large blue boat, at sea"),
        ("", "new text"),
        ("all of it", ""),
        ("one two three", "three one two"),
        ("l’été à St. Malo, 2019", "l’été à Saint-Malo"),
    ]
    with serving(work, "anna") as anna:
        browser.open(anna.url)
        browser.wait(READY)
        for before, after in pairs:
            found = browser.script("return wordDifference(...arguments)", before, after)
            change = change_between(before, after)
            assert (found["kept"], found["removed"], found["added"]) == (
                *(change.kept, change.removed, change.added),
            )
        text = "f/2.8, 12/03/2011 | “Kew” (www.example.com)"
        found = browser.script("return wordDifference(...arguments)", text, text)
        assert [(part["kind"], part["text"]) for part in found["parts"]] == [("same", text)]
        found = browser.script("return wordDifference(...arguments)", "a red, old boat", "a boat")
        assert [(part["kind"], part["text"], part["gap"]) for part in found["parts"]] == [
            *(("same", "a", False), ("removed", "red, old", True), ("same", "boat", True)),
        ]
