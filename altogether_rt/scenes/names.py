"""Invented names of things, places and people, which only an author of alt-text can know.

Names are composed of syllables, so there are far more of them than any training run can see.
A name belongs to the `train` or the `test` split by a hash of its stem, so that a name in a test
scene has never been seen in training.
"""

from __future__ import annotations

import random
import zlib
from typing import Literal

__all__ = ["Split", "person", "place", "split_of", "stem"]

Split = Literal["train", "test"]

_ONSETS = (
    "b", "br", "c", "cl", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "qu",
    "r", "s", "sh", "st", "t", "th", "tr", "v", "w", "y", "z",
)  # fmt: skip
_NUCLEI = ("a", "e", "i", "o", "u", "ai", "ea", "ee", "ia", "oo", "ou")
_CODAS = ("", "", "l", "m", "n", "nd", "r", "rk", "s", "sk", "st", "t", "x")
_ENDINGS = ("a", "el", "en", "ey", "ick", "in", "is", "ley", "mere", "o", "on", "or", "us", "wick")
_PLACES = ("Port {}", "Lake {}", "{} Bay", "{} Hill", "Mount {}", "{} Park", "{}", "{}")


def stem(rng: random.Random, split: Split) -> str:
    """A capitalised name of two or three syllables that belongs to `split`."""
    while True:
        middle = "".join(
            rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS)
            for _ in range(rng.choice((1, 1, 2)))
        )
        name = (middle + rng.choice(_ENDINGS)).capitalize()
        if 4 <= len(name) <= 11 and split_of(name) == split:
            return name


def split_of(name: str) -> Split:
    """The split that a stem belongs to: one stem in five is reserved for testing."""
    return "test" if zlib.crc32(name.encode()) % 5 == 0 else "train"


def place(rng: random.Random, split: Split) -> str:
    """A place, such as `Port Tesselmere`."""
    return rng.choice(_PLACES).format(stem(rng, split))


def person(rng: random.Random, split: Split) -> str:
    """A person, such as `Drouven Kastley`."""
    return f"{stem(rng, split)} {stem(rng, split)}"
