"""Counts the problems of an input and keeps the first few as examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

__all__ = ["Problems", "counted"]

_MAX_EXAMPLES: Final = 5


def counted(count: int, one: str, several: str) -> str:
    """`1 line is` or `1,234 lines are`: a count and the words that go with it."""
    return f"{count:,} {one if count == 1 else several}"


@dataclass
class Problems:
    """A count of problems and the first examples."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append(example)

    def merge(self, other: Problems) -> None:
        """Add the problems of another input."""
        self.count += other.count
        self.examples += other.examples[: _MAX_EXAMPLES - len(self.examples)]

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        """`a; b; and 3 more`"""
        rest = self.count - len(self.examples)
        return "; ".join([*self.examples, *([f"and {rest} more"] if rest else [])])
