"""Texts are taken apart as the rule says, and none is read over and over."""

from __future__ import annotations

import random
import re

import pytest

from altogether_rt.evaluation import names

pytestmark = pytest.mark.lean

#: The rule as it reads, which takes the square of the length of marks in a row.
PART = re.compile(
    r"[\w.-]*[\d_][\w.-]*|(?P<word>[^\W\d_]+(?:['’&.-](?=[^\W\d_])[^\W\d_]+)*)"
    r"|(?P<end>[.!?]+(?=\s|$))|[^\s.]"
)


def told(part: re.Match[str] | None) -> str:
    """What counts of a part: a word, an end of a sentence, or that there is some mark."""
    return "" if part is None else part["word"] or part["end"] or ""


def marks_once(parts: list[str]) -> list[str]:
    """Two marks in a row say no more than one."""
    return [part for part, before in zip(parts, ["x", *parts], strict=False) if part or before]


def test_they_are_what_the_rule_says() -> None:
    rng = random.Random(0)
    num_words = 0
    for _ in range(40_000):
        alphabet = rng.choice(("aB1_.-'& !?", "aB.!? ", "aB1.'- ", "aé1’.-\n ?"))
        text = "".join(rng.choices(alphabet, k=rng.randrange(16)))
        parts = [told(part) for part in PART.finditer(text)]
        assert marks_once([told(part) for part in names._parts(text)]) == marks_once(parts), text
        num_words += sum(part.isalpha() for part in parts)
    assert num_words > 20_000


def test_characters_read_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece that is searched for parts begins where the one before it ended."""
    searched: list[int] = []

    class Counting:
        """In the place of the pattern."""

        def finditer(self, text: str) -> list[re.Match[str]]:
            searched.append(len(text))
            return []

    monkeypatch.setattr(names, "_PART", Counting())
    text = "a1 -- b_ ..2.. c'd-3 " * 200
    assert list(names._parts(text)) == [None] * 800
    assert sum(searched) == len(text)


@pytest.mark.parametrize("unit", [".", "-", "a--", "_ ", "!?", "a'b--", "1."])
@pytest.mark.parametrize("after", ["x", " 1"])
def test_long_texts_are_taken_apart(unit: str, after: str) -> None:
    """With the rule as it reads, some would take minutes."""
    names.plain_words(unit * (100_000 // len(unit)) + after)
