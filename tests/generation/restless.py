"""A planner that verifies any number of draft tokens: captions must not depend on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from altogether_rt.speculation.planner import Acceptance, DraftPlanner, Speculation


class Credulous(Acceptance):
    """Expects every draft token to be accepted, which makes drafts long."""

    def for_row(self) -> Acceptance:
        return self

    def rate(self, kind: int) -> float:
        return 0.9 + kind / 1000


class Restless(DraftPlanner):
    """Verifies a random part of each draft."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.acceptance = Credulous()
        self._rng = np.random.default_rng(seed)

    def draft_lengths(self, mode: Speculation, gains: Sequence[Sequence[float]]) -> list[int]:
        return [int(self._rng.integers(0, len(row) + 1)) for row in gains]
