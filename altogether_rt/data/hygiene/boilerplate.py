"""Finds what begins or ends very many alt-texts: the name of a shop, "free shipping".

Texts are cut at separators (` | `, ` - `, `: `, the end of a sentence), and the first and last
parts are counted. A text that is not divided has no boilerplate: "a dog" may be said of thousands
of images and mean each of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from altogether_rt.data.hygiene.noise import unescape

__all__ = ["Boilerplate", "BoilerplateCounter", "find_boilerplate"]

#: All white space in a row: what follows is asked of it once, and not of each part of it, which
#: would take the square of its length.
_GAP: Final = r"(?<!\s)\s++"
_SEPARATOR: Final = re.compile(
    rf"{_GAP}[-–—|·•»›~/:]+\s+|(?:{_GAP})?[|»›]\s*|(?<=[^\s.!?:])[.!?:]+\s+|{_GAP}(?=\()"
)

#: A part is boilerplate if it is in so many texts and in this share of them.
_MIN_TEXTS: Final = 20
_MIN_SHARE: Final = 0.05
#: Different texts that a part must stand beside, as a share of its own count.
_MIN_VARIETY: Final = 0.5
#: Parts counted at a time; the rarest are forgotten, which makes counts too low, never too high.
_MAX_PARTS: Final = 20_000
_MIN_CHARS: Final = 3
_MAX_CHARS: Final = 300


@dataclass(frozen=True)
class Boilerplate:
    """Parts to take away, as `_comparable` writes them, and how many texts have each."""

    first: dict[str, int]
    last: dict[str, int]

    def __bool__(self) -> bool:
        return bool(self.first or self.last)

    def strip(self, text: str) -> str:
        """The text without boilerplate at its ends; never empty if the text is not."""
        cuts = list(_cuts(text))
        first, last, start, end = 0, len(cuts), 0, len(text)
        while first < last and _comparable(text[start : cuts[first][0]]) in self.first:
            start = cuts[first][1]
            first += 1
        while first < last and _comparable(text[cuts[last - 1][1] : end]) in self.last:
            end = cuts[last - 1][0]
            last -= 1
        return text[start:end]

    def examples(self) -> list[str]:
        """The parts, the most frequent first."""
        found = sorted({**self.first, **self.last}.items(), key=lambda item: (-item[1], item[0]))
        return [f"{part!r} ({count:,} times)" for part, count in found]


class BoilerplateCounter:
    """Counts parts of texts; memory does not grow with their number."""

    def __init__(self) -> None:
        self._num_texts = 0
        self._first = _Parts()
        self._last = _Parts()

    def add(self, text: str) -> None:
        text = unescape(text)
        self._num_texts += 1
        first, last = _first_cut(text), _last_cut(text)
        if first is not None and last is not None:
            self._first.add(_comparable(text[: first[0]]), text[first[1] :])
            self._last.add(_comparable(text[last[1] :]), text[: last[0]])

    def found(self) -> Boilerplate:
        """What is boilerplate in the texts so far."""
        least = max(_MIN_TEXTS, _MIN_SHARE * self._num_texts)
        return Boilerplate(self._first.frequent(least), self._last.frequent(least))


def find_boilerplate(texts: Iterable[str]) -> Boilerplate:
    """The boilerplate of a folder's or a shard's alt-texts."""
    counter = BoilerplateCounter()
    for text in texts:
        counter.add(text)
    return counter.found()


class _Parts:
    """Counts of parts, each with a sketch of how many different rests it stands beside."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._rests: dict[str, set[int]] = {}

    def add(self, part: str, rest: str) -> None:
        if not _MIN_CHARS <= len(part) <= _MAX_CHARS:
            return
        if part not in self._counts and len(self._counts) >= _MAX_PARTS:
            self._forget()
        self._counts[part] = self._counts.get(part, 0) + 1
        rests = self._rests.setdefault(part, set())
        if len(rests) < _MIN_TEXTS:
            rests.add(hash(rest))

    def frequent(self, least: float) -> dict[str, int]:
        variety = _MIN_VARIETY * _MIN_TEXTS
        return {
            part: count
            for part, count in sorted(self._counts.items())
            if count >= least and len(self._rests[part]) >= variety
        }

    def _forget(self) -> None:
        """Keep the more frequent half."""
        kept = sorted(self._counts, key=lambda part: (-self._counts[part], part))
        self._counts = {part: self._counts[part] for part in kept[: _MAX_PARTS // 2]}
        self._rests = {part: self._rests[part] for part in self._counts}


def _cuts(text: str) -> Iterator[tuple[int, int]]:
    """Where a text is divided: end of the part before, start of the part behind."""
    for found in _SEPARATOR.finditer(text):
        if found.start() > 0 and found.end() < len(text):
            yield found.span()


def _first_cut(text: str) -> tuple[int, int] | None:
    return next(_cuts(text), None)


def _last_cut(text: str) -> tuple[int, int] | None:
    return max(_cuts(text), default=None)


def _comparable(part: str) -> str:
    return " ".join(part.casefold().split()).strip(" .!?:|-–—")
