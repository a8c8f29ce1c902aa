"""Counts what the checks of captions found, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from altogether_rt.data.problems import Problems, counted
from altogether_rt.wording.checks import CHECK_FLAGS

__all__ = ["CheckCounts", "flags_of"]


@dataclass
class CheckCounts:
    """What came of the captions of a run, or of a file."""

    num_checked: int = 0  # rows
    flagged: dict[str, Problems] = field(default_factory=dict)  # by flag, with names of images
    alt_words: tuple[int, int] = (0, 0)  # kept, all
    alt_names: tuple[int, int] = (0, 0)

    def add(self, name: str, checks: Mapping[str, Any]) -> None:
        """Count the checks of an image's caption, as `CaptionChecker.check` gives them."""
        self.num_checked += 1
        for flag in checks["flags"]:
            self.flagged.setdefault(flag, Problems()).add(name)
        self.alt_words = _added(self.alt_words, checks.get("alt_words"))
        self.alt_names = _added(self.alt_names, checks.get("alt_names"))

    def merge(self, other: CheckCounts) -> None:
        """Add what was found in other captions."""
        self.num_checked += other.num_checked
        for flag, problems in other.flagged.items():
            self.flagged.setdefault(flag, Problems()).merge(problems)
        self.alt_words = _added(self.alt_words, other.alt_words)
        self.alt_names = _added(self.alt_names, other.alt_names)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CheckCounts:
        """The counts that `to_dict` made. Raises KeyError, TypeError or ValueError."""
        flagged = {
            flag: Problems(int(found["count"]), list(found["examples"]))
            for flag, found in data["flags"].items()
            if found["count"]
        }
        words, names = ([int(n) for n in data[key]] for key in ("alt_words", "alt_names"))
        return cls(int(data["checked"]), flagged, (words[0], words[1]), (names[0], names[1]))

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "checked": self.num_checked,
            "alt_words": list(self.alt_words),
            "alt_names": list(self.alt_names),
            "flags": {
                flag: {"count": problems.count, "examples": problems.examples}
                for flag, problems in self._in_order()
            },
        }

    def sentence(self) -> str:
        """What was found, one sentence."""
        parts = [
            f"{100 * kept / num:.0f} % of the {what} of the alt-texts kept"
            for what, (kept, num) in (("words", self.alt_words), ("names", self.alt_names))
            if num
        ]
        parts += [
            f"{counted(problems.count, *_SHOWN[flag])} ({problems})"
            for flag, problems in self._in_order()
            if problems
        ]
        return f"{self.num_checked:,} checked: {', '.join(parts) or 'nothing to say'}."

    def _in_order(self) -> list[tuple[str, Problems]]:
        return [(flag, self.flagged.get(flag, Problems())) for flag in CHECK_FLAGS]


#: What the sentence says of captions, by flag.
_SHOWN = {
    "refusal": ("refuses", "refuse"),
    "preamble": ("begins with a preamble", "begin with a preamble"),
    "prompt_echo": ("repeats words of the prompt", "repeat words of the prompt"),
    "loop": ("repeats itself", "repeat themselves"),
    "new_names": (
        "has names or numbers that are not in its alt-texts",
        "have names or numbers that are not in their alt-texts",
    ),
    "alt_unused": ("has no word of its alt-texts", "have no word of their alt-texts"),
}


def flags_of(row: Mapping[str, Any]) -> list[str]:
    """The flags of a row that somebody may have changed."""
    checks = row.get("checks")
    flags = checks.get("flags") if isinstance(checks, dict) else None
    return [flag for flag in CHECK_FLAGS if flag in flags] if isinstance(flags, list) else []


def _added(total: tuple[int, int], more: tuple[int, int] | list[int] | None) -> tuple[int, int]:
    return total if more is None else (total[0] + more[0], total[1] + more[1])
