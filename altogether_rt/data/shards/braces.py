"""Brace ranges in the names of shards: `{00000..00123}`, `{train,val}`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Final

from altogether_rt.errors import AltogetherError

__all__ = ["expand_braces"]

_RANGE: Final = re.compile(r"(\d+)\.\.(\d+)(?:\.\.(\d+))?")
_MAX_NAMES: Final = 10_000_000


def expand_braces(text: str) -> Iterator[str]:
    """Every name that `text` stands for, as a shell expands it; itself if it has no braces.

    A range keeps its zeros, `{08..10}` is 08, 09, 10; `{0..20..5}` has steps. Braces may be nested.
    Raises AltogetherError for more than ten million names.
    """
    if _count(text) > _MAX_NAMES:
        raise AltogetherError(f"{text} stands for more than {_MAX_NAMES:,} names: name fewer.")
    return _expand(text)


def _expand(text: str) -> Iterator[str]:
    found = _first_braces(text)
    if found is None:
        yield text
        return
    start, end, parts = found
    for middle in (name for part in parts for name in _expand(part)):
        for rest in _expand(text[end:]):
            yield text[:start] + middle + rest


def _count(text: str) -> int:
    """The number of names, without making them."""
    found = _first_braces(text)
    if found is None:
        return 1
    _, end, parts = found
    return sum(map(_count, parts)) * _count(text[end:])


def _first_braces(text: str) -> tuple[int, int, list[str]] | None:
    """(start, end, alternatives) of the first braces that hold a list or a range."""
    start = text.find("{")
    while start >= 0:
        depth, commas = 0, [start]
        for index in range(start, len(text)):
            char = text[index]
            if char == "{":
                depth += 1
            elif char == "," and depth == 1:
                commas.append(index)
            elif char == "}":
                depth -= 1
                if depth == 0:
                    parts = _alternatives(text, [*commas, index])
                    if parts is not None:
                        return start, index + 1, parts
                    break
        start = text.find("{", start + 1)
    return None


def _alternatives(text: str, bounds: list[int]) -> list[str] | None:
    parts = [text[a + 1 : b] for a, b in itertools.pairwise(bounds)]
    if len(parts) > 1:
        return parts
    match = _RANGE.fullmatch(parts[0])
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    step = max(1, int(match[3] or 1))
    if abs(last - first) // step >= _MAX_NAMES:
        raise AltogetherError(f"{text} stands for more than {_MAX_NAMES:,} names: name fewer.")
    padded = any(part.startswith("0") and len(part) > 1 for part in (match[1], match[2]))
    width = max(len(match[1]), len(match[2])) if padded else 0
    numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    return [f"{number:0{width}}" for number in numbers]
