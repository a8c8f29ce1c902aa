"""Separators of boilerplate are found as the rule says, and no text is read over and over."""

from __future__ import annotations

import random
import re

import pytest

from altogether_rt.data.hygiene import boilerplate
from altogether_rt.data.hygiene.boilerplate import BoilerplateCounter

pytestmark = pytest.mark.lean

#: The rule as it reads, which takes the square of the length of white space in a row.
SEPARATOR = re.compile(r"\s+[-–—|·•»›~/:]+\s+|\s*[|»›]\s*|(?<=[^\s.!?:])[.!?:]+\s+|\s+(?=\()")


def test_they_are_found_as_the_rule_says() -> None:
    rng = random.Random(0)
    num_found = 0
    for _ in range(50_000):
        text = "".join(rng.choices("  \t-|»:/.!(ab", k=rng.randrange(14)))
        spans = [found.span() for found in SEPARATOR.finditer(text)]
        assert [found.span() for found in boilerplate._SEPARATOR.finditer(text)] == spans, text
        num_found += len(spans)
    assert num_found > 50_000


def test_white_space_in_a_row_is_read_from_its_beginning_alone() -> None:
    gap = re.compile(boilerplate._GAP)
    text = "a" + " " * 2000 + "b \t c"
    assert sum(gap.match(text, start) is not None for start in range(len(text))) == 2
    assert boilerplate._SEPARATOR.pattern.count(gap.pattern) == 3


@pytest.mark.parametrize("unit", [" ", " -", "|", ". ", " (", ": "])
def test_long_texts_are_counted(unit: str) -> None:
    """With the rule as it reads, the first would take minutes."""
    BoilerplateCounter().add("a" + unit * (100_000 // len(unit)) + "b")
