"""What is known of a run at one moment."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

__all__ = ["MAX_EXAMPLES", "RunState"]

#: Errors of a class that are kept as examples.
MAX_EXAMPLES = 3


@dataclass
class RunState:
    """Counts of one run. Earlier runs of the same job are not in it."""

    unit: str
    total: int | None = None  # how many there are to do; None: not known
    done: int = 0
    captioned: int = 0
    tokens: int = 0  # of the captions, the end token included
    errors: Counter[str] = field(default_factory=Counter)  # by class
    error_examples: dict[str, list[str]] = field(default_factory=dict)  # the first of each class
    restarts: int = 0  # of workers
    queue_depth: int = 0  # samples drawn from the source and not answered
    note: str = ""  # a loss, a stage: the latest word of what is going on
    elapsed_s: float = 0.0

    @property
    def rate(self) -> float:
        """Done in a second, on average."""
        return self.done / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the average rate; None if the total is not known, or nothing is done yet."""
        if self.total is None or self.rate <= 0:
            return None
        return max(0, self.total - self.done) / self.rate

    def figures(self) -> dict[str, Any]:
        """The counts for one line of JSON."""
        left = self.seconds_left
        return {
            "unit": self.unit,
            "done": self.done,
            "total": self.total,
            "elapsed_s": round(self.elapsed_s, 3),
            "rate": round(self.rate, 4),
            "eta_s": None if left is None else round(left, 1),
            "captioned": self.captioned,
            "errors": dict(self.errors),
            "tokens": self.tokens,
            "queue": self.queue_depth,
            "restarts": self.restarts,
        }
