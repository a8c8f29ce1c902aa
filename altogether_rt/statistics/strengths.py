"""Bradley–Terry: one strength for each of several systems, from comparisons two at a time.

System i beats j with probability s_i / (s_i + s_j). Fitted by the minorise-maximise algorithm of
Hunter: MM algorithms for generalized Bradley–Terry models, Annals of Statistics 32, 2004.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from altogether_rt.errors import AltogetherError

__all__ = ["bradley_terry", "win_probabilities"]

_MAX_ITERATIONS: Final = 100_000


def bradley_terry(
    wins: ArrayLike, *, prior: float = 0.0, tolerance: float = 1e-12
) -> NDArray[np.float64]:
    """Strengths (num_systems,), positive, of geometric mean 1.

    `wins[i, j]` says how often i beat j; count a tie as half a win for each. `prior` adds that
    many ties between every two systems: with any positive one there is a finite solution, even
    where a system never lost. Raises AltogetherError where there is none, ValueError for a matrix
    that is not square.
    """
    won = np.array(wins, np.float64)
    if won.ndim != 2 or won.shape[0] != won.shape[1]:
        raise ValueError(f"wins must be square, not {won.shape}.")
    won += prior / 2
    np.fill_diagonal(won, 0.0)
    if not _strongly_connected(won > 0):
        raise AltogetherError(
            "these comparisons have no Bradley–Terry solution, since some systems never lost to "
            "the others or were never compared with them: give a prior."
        )
    games = won + won.T
    num_won = won.sum(axis=1)
    strengths = np.ones(len(won))
    for _ in range(_MAX_ITERATIONS):
        updated = num_won / (games / (strengths[:, None] + strengths)).sum(axis=1)
        updated /= np.exp(np.log(updated).mean())
        change = float(np.abs(np.log(updated / strengths)).max())
        strengths = updated
        if change < tolerance:
            break
    return strengths


def win_probabilities(strengths: ArrayLike) -> NDArray[np.float64]:
    """Probability (num_systems, num_systems) that the row's system beats the column's."""
    values = np.asarray(strengths, np.float64)
    return values[:, None] / (values[:, None] + values)


def _strongly_connected(beats: NDArray[np.bool_]) -> bool:
    """Whether a chain of wins leads from each system to each other one (Ford, 1957)."""
    return _reaches_all(beats) and _reaches_all(beats.T)


def _reaches_all(beats: NDArray[np.bool_]) -> bool:
    reached = np.zeros(len(beats), np.bool_)
    reached[:1] = True
    for _ in range(len(beats)):
        reached |= beats[reached].any(axis=0)
    return bool(reached.all())
