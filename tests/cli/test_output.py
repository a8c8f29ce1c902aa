"""The sink: what goes where in each of the three ways of speaking."""

from __future__ import annotations

import io
import json
import sys

import pytest

from altogether_rt.cli.output import (
    Output,
    format_bytes,
    format_duration,
    json_line,
)

pytestmark = pytest.mark.lean

Capture = pytest.CaptureFixture[str]


def test_human_output(capsys: Capture) -> None:
    out = Output()
    out.note("working")
    out.result({"count": 1}, "one caption")
    out.error("it broke")
    captured = capsys.readouterr()
    assert captured.out == "one caption\n"
    assert captured.err == "working\naltogether-rt: it broke\n"


def test_json_output_is_one_line_of_json(capsys: Capture) -> None:
    out = Output(as_json=True)
    out.show("a table")
    out.result({"caption": "naïve\n"}, "human")
    assert capsys.readouterr().out == '{"caption": "naïve\\n"}\n'


def test_quiet_output_has_errors_only(capsys: Capture) -> None:
    out = Output(quiet=True)
    out.note("working")
    out.show("a table")
    out.result({"count": 1}, "one caption")
    with out.progress(10, "images") as progress:
        progress.advance(10)
    out.error("it broke")
    assert capsys.readouterr() == ("", "altogether-rt: it broke\n")


def test_quiet_json_still_gives_the_result(capsys: Capture) -> None:
    Output(as_json=True, quiet=True).result({"count": 1})
    assert json.loads(capsys.readouterr().out) == {"count": 1}


def test_table_shows_brackets_as_they_are(capsys: Capture) -> None:
    out = Output()
    out.show(
        out.table("Sizes", ["part", "size"], [["altogether-rt[cpu]", 12], ["[red]b\x1b[0m", 3]])
    )
    shown = capsys.readouterr().out
    assert "altogether-rt[cpu]" in shown
    assert "[red]b" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("columns", [30, 41, 42, 200])
def test_no_word_of_a_table_is_cut_on_a_narrow_terminal(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    out = Output()
    rows = [["smolvlm-500m", "photographs, on a laptop", "1.02 GB"], ["x", "", "0.999973"]]
    table = out.table("Names", ["name", "good for", "download"], rows)
    with monkeypatch.context() as patch:
        patch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        out.show(table)
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("Names", "smolvlm-500m", "photographs,", "0.999973"))
    assert "…" not in shown
    # 12, 12 and 8 characters of the longest words, and 10 for lines and spaces: 42.
    assert ("│" in shown) == (columns >= 42)
    if columns < 42:
        assert (
            "smolvlm-500m\n  good for: photographs, on a laptop\n  download: 1.02 GB\nx\n" in shown
        )
        assert shown.endswith("x\n  download: 0.999973\n")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (3_140_000, "3.14 MB"),
        (2.6e9, "2.6 GB"),
        (5e12, "5 TB"),
    ],
)
def test_format_bytes(count: float, text: str) -> None:
    assert format_bytes(count) == text


def test_format_duration() -> None:
    assert format_duration(65.4) == "01:05"
    assert format_duration(7265) == "2:01:05"


def test_json_stays_json_on_a_narrow_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    assert json.loads(json_line({"name": "café"})) == {"name": "café"}
    assert json_line({"name": "café"}).isascii()
