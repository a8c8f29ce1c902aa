"""What comes from outside is one line, and does nothing to a terminal."""

from __future__ import annotations

import io
import unicodedata

import pytest

from altogether_rt.monitoring.text import format_duration, format_rate, print_traceback, printable

pytestmark = pytest.mark.lean


def test_whatever_ends_a_line_moves_the_cursor_or_turns_text_is_shown_as_its_escape() -> None:
    assert printable("a\nb\rc\td\x1b[31me\x9b\x85f") == r"a\nb\rc\td\x1b[31me\x9b\x85f"
    assert printable("gpj.\u202eexe\u2066\u2028\u2029") == r"gpj.\u202eexe\u2066\u2028\u2029"
    assert printable("bytes \udcff, half a pair \ud83d") == r"bytes \xff, half a pair \ud83d"


def test_every_other_character_stays() -> None:
    text = "naïve ☃ 𝔘 שלום\u200f [red] \\n \N{ZERO WIDTH JOINER}"
    assert printable(text) == text


def test_no_control_character_of_unicode_is_left() -> None:
    every = "".join(map(chr, range(0x110000)))
    left = {unicodedata.category(character) for character in printable(every)}
    assert not left & {"Cc", "Cs", "Zl", "Zp"}
    bidi = {unicodedata.bidirectional(character) for character in printable(every)}
    assert not bidi & {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI", "B"}


def test_a_traceback_has_frames_of_several_lines_and_messages_of_one() -> None:
    stream = io.StringIO()
    try:
        try:
            raise ValueError("inner\nTraceback\x1b[2J")
        except ValueError as error:
            raise RuntimeError("outer\n  File forged") from error
    except RuntimeError as error:
        print_traceback(error, stream)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert r"ValueError: inner\nTraceback\x1b[2J" in lines
    assert lines[-1] == r"RuntimeError: outer\n  File forged"
    assert sum(line.startswith("  File ") for line in lines) == 2


def test_durations_and_rates() -> None:
    assert format_duration(65.4) == "01:05"
    assert format_duration(7265) == "2:01:05"
    assert [format_rate(rate) for rate in (0, 0.0371, 45.23)] == ["0.0/s", "0.037/s", "45.2/s"]
