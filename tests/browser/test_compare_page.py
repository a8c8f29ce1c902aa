"""The page of comparisons in a real browser: by keyboard alone, in light and dark, on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from altogether_rt.comparison.site import ComparisonSession, make_site
from altogether_rt.comparison.study import Study
from altogether_rt.web.answers import AnswerFile, read_answers
from altogether_rt.web.server import LoopbackServer
from tests.browser.driver import Browser
from tests.browser.pages import in_sight
from tests.comparison.studies import start_small, write_rows

NUM_IMAGES = 4  # and one pair again
CHOSEN = (
    "return Array.from(document.querySelectorAll('[aria-pressed=true]'))"
    ".map(e => e.id).filter(id => id.includes(':'))"
)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Alt-texts of all images but one, which is asked one question less."""
    alts = [
        {"file_name": f"{i:03}.png", "alt": ["the Marigold", "<b>a boat</b> & more"][: i + 1]}
        for i in range(NUM_IMAGES - 1)
    ]
    path = write_rows(tmp_path / "alts.jsonl", alts)
    return start_small(tmp_path, NUM_IMAGES, alt="", alts=path).study


@pytest.fixture
def server(study: Study) -> Iterator[LoopbackServer]:
    with AnswerFile(study.answers_folder / "ann.jsonl") as answers:
        session = ComparisonSession(study, "ann", answers)
        with LoopbackServer(make_site(session)) as running:
            running.start()
            yield running
            running.shutdown()


def open_page(browser: Browser, server: LoopbackServer) -> None:
    browser.open(server.url)
    browser.wait("return !document.getElementById('task').hidden")
    browser.wait("return document.getElementById('image').naturalWidth > 0")


def wait_for_pair(browser: Browser, number: int) -> None:
    """Until that pair is shown and takes answers."""
    text = f"pair {number} of {NUM_IMAGES + 1},"
    browser.wait(
        "return document.getElementById('count').textContent.includes(arguments[0])"
        " && document.getElementById('task').ariaBusy !== 'true'",
        text,
    )


def num_questions(study: Study, position: int) -> int:
    return len(study.questions_of(study.tasks[position]))


def choices(study: Study, position: int) -> dict[str, str]:
    """The choices of the last answer to the task at a position, none if it was skipped."""
    rows = read_answers(study.answers_folder / "ann.jsonl")
    found = [row for row in rows if row["task"] == study.tasks[position].id]
    assert found[-1].get("skipped", False) != ("choices" in found[-1])
    return dict(found[-1].get("choices", {}))


def test_judge_by_keyboard_alone(browser: Browser, server: LoopbackServer, study: Study) -> None:
    open_page(browser, server)
    first = study.tasks[0]
    assert browser.text("left") == first.left
    assert browser.text("right") == first.right
    assert browser.text("alt") == ("\n".join(first.alt) or "none")
    assert browser.focused() == "alignment:left"
    # 1, 2, 3 answer the questions one after another, and then Enter saves.
    keys = ["1", "2", "3"][: num_questions(study, 0)]
    browser.press("1")
    assert browser.script(CHOSEN) == ["alignment:left"]
    assert browser.focused() == "named-entities:left"
    browser.press(*keys[1:])
    assert browser.focused() == "save"
    browser.press("Enter")
    wait_for_pair(browser, 2)
    expected = {"alignment": "left", "named-entities": "tie", "alt-text": "right"}
    assert choices(study, 0) == {q.id: expected[q.id] for q in study.questions_of(first)}
    # Tab and Space do as well.
    for _ in study.questions_of(study.tasks[1]):
        browser.press("Tab", "Tab", "Space")  # from the first answer to the third
    assert browser.focused() == "save"
    browser.press("Space")
    wait_for_pair(browser, 3)
    assert set(choices(study, 1).values()) == {"right"}
    # Undo: back to what was answered, and another answer counts.
    browser.press("u")
    wait_for_pair(browser, 2)
    assert len(browser.script(CHOSEN)) == num_questions(study, 1)
    browser.press("2", "Enter")
    wait_for_pair(browser, 3)
    assert choices(study, 1)["alignment"] == "tie"
    assert choices(study, 1)["named-entities"] == "right"
    # A pair that cannot be judged.
    browser.press("s")
    wait_for_pair(browser, 4)
    assert choices(study, 2) == {}
    # Another day: it goes on where it was, and ends.
    open_page(browser, server)
    wait_for_pair(browser, 4)
    for position in (3, 4):
        wait_for_pair(browser, position + 1)
        browser.press(*["3"] * num_questions(study, position), "Enter")
    browser.wait("return !document.getElementById('finished').hidden")
    assert f"You have judged {NUM_IMAGES + 1} pairs." in browser.text("finished-count")
    browser.press("u")
    wait_for_pair(browser, 5)
    rows = read_answers(study.answers_folder / "ann.jsonl")
    assert len(rows) == 6
    assert all(0 <= row["seconds"] < 60 for row in rows)
    assert sum(row["seconds"] for row in rows) > 0


def answered(study: Study) -> set[str]:
    return {row["task"] for row in read_answers(study.answers_folder / "ann.jsonl")}


def test_an_open_question_is_pointed_out(
    browser: Browser, server: LoopbackServer, study: Study
) -> None:
    browser.resize(1366, 420)  # lower than the questions
    open_page(browser, server)
    browser.press("3", "Enter")
    browser.wait("return !document.getElementById('error').hidden")
    browser.script("scrollTo(0, document.body.scrollHeight)")
    assert in_sight(browser, "error")
    assert browser.text("error") == "Answer every question first; a tie is an answer."
    assert browser.focused() == "named-entities:left"
    assert answered(study) == set()
    browser.press(*["1"] * (num_questions(study, 0) - 1), "Enter", "Enter", "Enter")
    wait_for_pair(browser, 2)
    assert len(answered(study)) == 1  # Enter again does not save the next pair


def test_keys_and_zoom(browser: Browser, server: LoopbackServer, study: Study) -> None:
    open_page(browser, server)
    browser.press("?")
    browser.wait("return document.getElementById('keys').open")
    browser.press("1", "s", "u")  # nothing happens behind the list
    assert browser.script(CHOSEN) == []
    browser.press("Escape")
    browser.wait("return !document.getElementById('keys').open")
    assert answered(study) == set()
    browser.press("z")
    assert browser.focused() == "frame"
    assert browser.script("return document.getElementById('zoom').ariaPressed") == "true"
    browser.press("1", "z")
    assert browser.script(CHOSEN) == ["alignment:left"]
    assert browser.script("return document.getElementById('zoom').ariaPressed") == "false"


def test_an_image_that_changed_is_said(
    browser: Browser, server: LoopbackServer, study: Study
) -> None:
    (Path(study.info.images) / study.tasks[0].file_name).write_bytes(b"another")
    browser.open(server.url)
    browser.wait("return !document.getElementById('error').hidden")
    assert "The image cannot be shown" in browser.text("error")
    browser.press("s")
    wait_for_pair(browser, 2)
    browser.wait("return document.getElementById('error').hidden")
    assert any("409" in line for line in browser.console())  # the browser's own words


def test_no_serious_fault_in_light_and_dark_wide_and_narrow(
    browser: Browser,
    server: LoopbackServer,
    study: Study,
    assert_accessible: Callable[[], None],
    assert_only_loopback: Callable[[str], None],
) -> None:
    open_page(browser, server)
    for scheme in ("light", "dark"):
        browser.colour_scheme(scheme)
        for width in (1280, 420):
            browser.resize(width, 900)
            assert browser.script("return document.body.scrollWidth <= innerWidth")
            browser.press("1")
            assert_accessible()
        browser.press("z")  # the image in its real size
        assert_accessible()
        browser.press("z", "?")  # the list of keys
        assert_accessible()
        browser.press("Escape")
    browser.press("Enter")  # all is answered by now
    wait_for_pair(browser, 2)
    browser.press("Enter")  # nothing is
    browser.wait("return !document.getElementById('error').hidden")
    for scheme in ("light", "dark"):
        browser.colour_scheme(scheme)
        assert_accessible()
    for number in range(2, len(study.tasks) + 1):
        wait_for_pair(browser, number)
        browser.press("s")
    browser.wait("return !document.getElementById('finished').hidden")
    for scheme in ("light", "dark"):
        browser.colour_scheme(scheme)
        assert_accessible()
    assert_only_loopback(server.url)
