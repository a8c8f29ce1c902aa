"""What goes to stderr in each way of showing progress."""

from __future__ import annotations

import io
import json
from collections import Counter

import pytest

from altogether_rt.monitoring.base import Observer
from altogether_rt.monitoring.display import (
    Display,
    JsonLines,
    PlainLines,
    ProgressMode,
    TerminalLine,
    open_display,
)
from altogether_rt.monitoring.state import RunState

pytestmark = pytest.mark.lean


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


STATE = RunState(
    "images",
    total=10,
    done=4,
    captioned=3,
    tokens=30,
    errors=Counter({"empty": 1}),
    error_examples={"empty": ["e.png is empty."]},
    note="loss 2.5\x1b[2J",
    elapsed_s=8.0,
)


def test_a_log_gets_a_line_every_30_seconds() -> None:
    stream = io.StringIO()
    plain = PlainLines(stream)
    assert plain.interval_s == 30
    plain.start(STATE)
    plain.update(STATE)
    plain.finish(STATE)
    assert stream.getvalue() == r"4/10 images  0.5/s  00:12 left  1 failed  loss 2.5\x1b[2J" + "\n"


def test_a_terminal_has_one_line_redrawn_and_wiped_before_a_note() -> None:
    stream = Terminal()
    line = TerminalLine(stream)
    line.update(STATE)
    line.update(RunState("images", done=1, elapsed_s=1.0))
    drawn = stream.getvalue()
    assert drawn.count("\r") == 2
    assert "\n" not in drawn
    assert drawn.endswith("1 images  1.0/s".ljust(len(drawn) // 2 - 1))
    line.event("info", "note", "two\nlines", {})
    assert stream.getvalue().endswith(" \r" + r"two\nlines" + "\n")
    line.finish(STATE)
    assert stream.getvalue().endswith(r"two\nlines" + "\n")


def test_lines_of_json_say_everything() -> None:
    stream = io.StringIO()
    lines = JsonLines(stream)
    lines.start(STATE)
    lines.event("info", "note", "two\nlines", {})
    lines.event("warning", "image_error", "for the log", {})
    lines.event("error", "error", "it broke", {})
    lines.finish(STATE)
    first, note, error, last = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("time") <= last.pop("time")
    assert first == last
    assert first == {
        "event": "progress",
        "unit": "images",
        "done": 4,
        "total": 10,
        "elapsed_s": 8.0,
        "rate": 0.5,
        "eta_s": 12.0,
        "captioned": 3,
        "errors": {"empty": 1},
        "tokens": 30,
        "queue": 0,
        "restarts": 0,
    }
    assert (note["event"], note["message"]) == ("note", "two\nlines")
    assert (error["event"], error["message"]) == ("error", "it broke")


@pytest.mark.parametrize(
    ("mode", "quiet", "stream", "kind"),
    [
        ("auto", False, io.StringIO(), PlainLines),
        ("auto", False, Terminal(), TerminalLine),
        ("auto", True, Terminal(), Display),
        ("none", False, Terminal(), Display),
        ("plain", False, Terminal(), PlainLines),
        ("plain", True, Terminal(), PlainLines),
        ("json", True, Terminal(), JsonLines),
        ("json", False, None, Observer),
    ],
)
def test_which_way_it_is(
    mode: ProgressMode, quiet: bool, stream: io.StringIO | None, kind: type
) -> None:
    assert type(open_display(ProgressMode(mode), stream, quiet=quiet)) is kind


def test_quiet_says_errors_alone() -> None:
    stream = io.StringIO()
    display = Display(stream, quiet=True)
    display.event("info", "note", "working", {})
    display.event("warning", "restart", "a worker died", {})
    display.event("error", "error", "it\nbroke", {})
    assert stream.getvalue() == r"altogether-rt: it\nbroke" + "\n"
