"""Scores captions of scenes: every fact is known, so every claim can be checked.

The rules are lenient about wording and strict about facts. A group is recognized when its kind is
named; its colour, count and size are looked up in the few words before that noun, a relation in the
words between the two nouns, in either order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from altogether_rt.scenes.world import (
    COLOURS,
    COUNT_WORDS,
    KINDS,
    RELATIONS,
    SIZES,
    plural,
)

__all__ = ["FACT_TYPES", "Scores", "score_caption"]

FACT_TYPES = ("kind", "colour", "count", "size", "relation", "background")

_WORDS_BEFORE = 4  # "a large red boat": the words of a group phrase before its noun

_BACKGROUND_WORDS: dict[str, frozenset[str]] = {
    "sea": frozenset({"sea", "ocean", "water"}),
    "meadow": frozenset({"meadow", "grass", "field", "lawn"}),
    "desert": frozenset({"desert", "sand", "dunes"}),
    "night": frozenset({"night"}),
    "snow": frozenset({"snow", "snowy"}),
    "wall": frozenset({"wall", "bricks"}),
    "sunset": frozenset({"sunset"}),
    "room": frozenset({"room", "indoors"}),
}
_RELATION_WORDS: dict[str, str] = {
    "to the left of": "left",
    "to the right of": "right",
    "above": "above|over",
    "below": "below|under|beneath",
}
_COUNT_BY_WORD = {word: count for count, word in COUNT_WORDS.items()} | {
    "an": 1, "one": 1, "the": 1, "1": 1, "2": 2, "3": 3, "4": 4,
}  # fmt: skip
_KIND_BY_WORD = {kind: kind for kind in KINDS} | {plural(kind): kind for kind in KINDS}
_WORD = re.compile(r"[a-z0-9]+")
_CAPITALISED = re.compile(r"(?<![.!?] )(?<!^)\b[A-Z][a-z]+")


@dataclass
class Scores:
    """Counts over captions, and the percentages that follow from them."""

    num_captions: int = 0
    right: Counter[str] = field(default_factory=Counter)  # by fact type
    total: Counter[str] = field(default_factory=Counter)
    names_kept: int = 0
    names: int = 0
    wrong_corrected: int = 0
    wrong: int = 0
    empty_alts: int = 0
    empty_alts_with_invention: int = 0
    with_invention: int = 0
    num_missing: int = 0  # of the captions: those that are missing, scored as empty
    num_unknown: int = 0  # captions that are not scored: not of these scenes

    def add(self, caption: str, reference: Mapping[str, Any]) -> None:
        """Add one caption, scored against its row of references.jsonl."""
        facts, alt = reference["facts"], reference["rounds"][0]
        seen = score_caption(caption, facts)
        self.num_captions += 1
        for type_, right in seen:
            self.total[type_] += 1
            self.right[type_] += right
        self.names += len(facts["names"])
        self.names_kept += sum(_contains_name(caption, name) for name in facts["names"])
        self.wrong += len(facts["wrong"])
        self.wrong_corrected += sum(_is_corrected(caption, w, facts) for w in facts["wrong"])
        invented = bool(_invented_names(caption, alt))
        self.with_invention += invented
        if not alt.strip():
            self.empty_alts += 1
            self.empty_alts_with_invention += invented

    @property
    def visual(self) -> float:
        """Fraction of the visual facts that captions state correctly."""
        return _share(sum(self.right.values()), sum(self.total.values()))

    def to_dict(self) -> dict[str, Any]:
        """Percentages, None where there was nothing to count, and the counts behind them."""
        return {
            "captions": self.num_captions,
            "visual_facts_right": _percent(sum(self.right.values()), sum(self.total.values())),
            **{f"{t}_right": _percent(self.right[t], self.total[t]) for t in FACT_TYPES},
            "names_kept": _percent(self.names_kept, self.names),
            "wrong_corrected": _percent(self.wrong_corrected, self.wrong),
            "invented_with_empty_alt": _percent(self.empty_alts_with_invention, self.empty_alts),
            "invented": _percent(self.with_invention, self.num_captions),
            "visual_facts": sum(self.total.values()),
            "names": self.names,
            "wrong_facts": self.wrong,
            "empty_alts": self.empty_alts,
        }


def score_caption(caption: str, facts: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """(fact type, stated correctly) for every visual fact of a scene."""
    words = _WORD.findall(caption.lower())
    groups = facts["groups"]
    mentions = [_mention(words, group["kind"]) for group in groups]
    results: list[tuple[str, bool]] = []
    for group, mention in zip(groups, mentions, strict=True):
        before = _words_before(words, mention) if mention is not None else []
        results.append(("kind", mention is not None))
        colours = [word for word in before if word in COLOURS]
        results.append(("colour", colours == [group["colour"]]))
        results.append(("count", mention is not None and _count(before) == group["count"]))
        if group["size"]:
            sizes = [word for word in before if word in SIZES]
            results.append(("size", sizes == [group["size"]]))
    if facts["relation"]:
        results.append(("relation", _relation_right(words, mentions, facts["relation"])))
    results.append(("background", _background_right(words, facts["background"])))
    return results


def _mention(words: list[str], kind: str) -> int | None:
    """Index of the first word that names `kind`; None if none does."""
    return next((i for i, word in enumerate(words) if _KIND_BY_WORD.get(word) == kind), None)


def _words_before(words: list[str], noun: int) -> list[str]:
    """Up to `_WORDS_BEFORE` words before a noun, nearest first, back to the previous noun."""
    before: list[str] = []
    for word in reversed(words[max(0, noun - _WORDS_BEFORE) : noun]):
        if word in _KIND_BY_WORD:
            break
        before.append(word)
    return before


def _count(before: list[str]) -> int | None:
    """The count word nearest to the noun; before: as `_words_before` returns it."""
    return next((_COUNT_BY_WORD[word] for word in before if word in _COUNT_BY_WORD), None)


def _relation_right(words: list[str], mentions: list[int | None], relation: str) -> bool:
    first, second = mentions
    if first is None or second is None:
        return False
    if first > second:
        first, second, relation = second, first, RELATIONS[relation]
    between = words[first + 1 : second]
    said = [
        r
        for r, pattern in _RELATION_WORDS.items()
        if any(re.fullmatch(pattern, w) for w in between)
    ]
    return said == [relation]


def _background_right(words: list[str], background: str) -> bool:
    said = {name for name, known in _BACKGROUND_WORDS.items() if known & set(words)}
    return said == {background}


def _contains_name(caption: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", caption) is not None


def _is_corrected(caption: str, wrong: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether the caption states the true fact and not the wrong one of the alt-text."""
    words = _WORD.findall(caption.lower())
    if wrong["type"] == "background":
        return _background_right(words, str(wrong["true"]))
    group = facts["groups"][wrong["group"]]
    mention = _mention(words, group["kind"])
    if mention is None:
        return False
    before = _words_before(words, mention)
    if wrong["type"] == "colour":
        return [word for word in before if word in COLOURS] == [str(wrong["true"])]
    if wrong["type"] == "count":
        return _count(before) == int(group["count"])
    return _mention(words, str(wrong["said"])) is None


def _invented_names(caption: str, alt: str) -> list[str]:
    """Capitalised words inside sentences that do not occur in the alt-text."""
    return [word for word in _CAPITALISED.findall(caption) if word.lower() not in alt.lower()]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 2) if whole else None
