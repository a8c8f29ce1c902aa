"""Who is compared: for each its environment, its adapter, what it loads, and how far it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["BENCHMARKS", "ROOT", "Contestant", "Scope", "choose"]

Scope = Literal["whole", "decoder"]

BENCHMARKS = Path(__file__).resolve().parent.parent
ROOT = BENCHMARKS.parent


@dataclass(frozen=True)
class Contestant:
    """One row of the table."""

    name: str
    label: str
    environment: str | None  # name of one that the runner makes; None: the runner's own
    adapter: str  # module:class
    files: Mapping[str, str]  # option of the adapter -> file or folder in the work folder
    options: Mapping[str, Any] = field(default_factory=dict)
    scope: Scope = "whole"
    modes: tuple[str, ...] = ("visual",)  # kinds of prompt whose tokens are compared
    needs_pairs: bool = False
    batch_sizes: tuple[int, ...] | None = None  # None: all of the run

    def load_options(self, work: Path, **inputs: Any) -> dict[str, Any]:
        """What the adapter is given. inputs: what all contestants share, such as `pixels`."""
        files = {option: str(work / name) for option, name in self.files.items()}
        return {**inputs, **files, **self.options}


def choose(contestants: Mapping[str, Contestant], names: str | None) -> list[Contestant]:
    """Those of `names`, separated by commas, in that order; all if None. Exits for a wrong name."""
    wanted = names.split(",") if names else list(contestants)
    unknown = [name for name in wanted if name not in contestants]
    if unknown:
        raise SystemExit(
            f"no contestant is called {unknown[0]}; there are {', '.join(contestants)}."
        )
    return [contestants[name] for name in wanted]
