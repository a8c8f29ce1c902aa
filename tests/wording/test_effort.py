"""The rules of checks read no text over and over, and find what they say.

More texts than in the suite: python -m tests.wording.test_effort 1000000
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from altogether_rt.wording import checks, words
from altogether_rt.wording.alt_style import page_alt
from altogether_rt.wording.checks import CaptionChecker

pytestmark = pytest.mark.lean

# What the rules say, written as they read: each takes the square of the length of some text.
QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»")
END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)|[。！？]+[」』]?")
PART = re.compile(
    rf"[^\W\d_][\w{words._MARKS}]*(?:['’.&-](?=[^\W_])[\w{words._MARKS}]+)*"
    r"|\d+(?:[.,:/–-]\d+)*\w*"
    r"|[.!?…]+(?=[\s\"'”’)\]]|$)|[。！？]"
    r"|[^\s\w.!?…]"
)
PREAMBLE = re.compile(checks._PREAMBLE.pattern.replace(r"\s*(?:\*+\s*)?:", r"\s*\**\s*:"), re.I)

ALPHABETS = (
    *('"“”«»ab ', ".!?…\"'”’)] ab1_\n", "。！？」』.”a ", "“\"'* :\n"),
    "ab12.,:/–-&'’_ \u0301黑",
)
OPENINGS = ("caption", "a photo", "The new description", "answer", "**alt-text", "in this image")


def texts(seed: int, num: int) -> Iterator[str]:
    """Short texts of few characters, so that every order of some of them occurs."""
    rng = random.Random(seed)
    for _ in range(num):
        text = "".join(rng.choices(rng.choice(ALPHABETS), k=rng.randrange(14)))
        opening = rng.choice(OPENINGS) if rng.random() < 0.3 else ""
        yield rng.choice(('"', "")) + opening + text


def found(pattern: re.Pattern[str], text: str) -> list[tuple[int, int]]:
    return [match.span() for match in pattern.finditer(text)]


def compare(seed: int, num: int) -> None:
    assert PREAMBLE.pattern != checks._PREAMBLE.pattern
    for text in texts(seed, num):
        assert checks._without_quotations(text) == QUOTED.sub(" ", text), repr(text)
        assert found(words._PART, text) == found(PART, text), repr(text)
        assert found(words._END, text) == found(END, text), repr(text)
        ours, plain = checks._PREAMBLE.match(text), PREAMBLE.match(text)
        assert (ours and ours.span()) == (plain and plain.span()), repr(text)


def test_they_find_what_the_rules_say() -> None:
    compare(0, 20_000)


class Searched(str):
    """A text that counts how many of its characters are searched."""

    num_searched = 0

    def find(self, what: Any, start: Any = 0, end: Any = None) -> int:
        at = super().find(what, start)
        self.num_searched += (len(self) if at < 0 else at + 1) - start
        return at


@pytest.mark.parametrize(
    "text",
    [
        "“" * 2000,
        "«“\"" * 700,
        "«“" * 1000 + "”",
        "“a”" * 700 + "«" * 500,
        '"a' * 1001,
    ],
)  # fmt: skip
def test_no_character_is_searched_more_often_than_there_are_marks(text: str) -> None:
    searched = Searched(text)
    assert checks._without_quotations(searched) == QUOTED.sub(" ", text)
    assert 0 < searched.num_searched <= 3 * len(text)


@pytest.mark.parametrize(("text", "num_runs"), [("." * 2000 + "x", 1), ("x?!…. " * 300, 300)])
def test_marks_in_a_row_are_read_from_the_first_alone(text: str, num_runs: int) -> None:
    run = re.compile(words._END_MARKS)
    read = [run.match(text, start) for start in range(len(text))]
    assert sum(match is not None for match in read) == num_runs
    assert run.pattern in words._PART.pattern and run.pattern in words._END.pattern


@pytest.mark.parametrize("before", ["", "caption", '"'])
@pytest.mark.parametrize("unit", ["“", "«", ".", "…", '."', " ", "*", "* ", "a. ", "the "])
def test_long_texts_of_marks_are_checked(before: str, unit: str) -> None:
    """With the rules as they read, some of these would take minutes."""
    text = before + unit * (100_000 // len(unit)) + "x"
    CaptionChecker().check(text, [text])
    page_alt(text)


if __name__ == "__main__":
    compare(1, int(sys.argv[1]))
    print(f"{int(sys.argv[1]):,} texts: no difference")
