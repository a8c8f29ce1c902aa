"""Bradley–Terry strengths against solutions known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from altogether_rt.errors import AltogetherError
from altogether_rt.statistics import bradley_terry, win_probabilities

pytestmark = pytest.mark.lean


def test_two_systems_by_hand() -> None:
    """The odds are those of the wins: 30 to 10, so 3, split over the geometric mean."""
    assert bradley_terry([[0, 30], [10, 0]]) == pytest.approx([3**0.5, 3**-0.5])


def test_expected_wins_give_back_the_strengths() -> None:
    """With exactly the wins that strengths 4, 1, 1/4 expect, these are the solution."""
    strengths = np.array([4.0, 1.0, 0.25])
    wins = 100 * win_probabilities(strengths)
    assert bradley_terry(wins) == pytest.approx(strengths, rel=1e-9)
    unequal = wins * np.array([[0, 1, 5], [1, 0, 3], [5, 3, 0]])  # pairs compared unequally often
    assert bradley_terry(unequal) == pytest.approx(strengths, rel=1e-9)


def test_a_solution_makes_expected_wins_those_observed() -> None:
    """What the likelihood's derivative being zero says, for wins that no strengths expect."""
    wins = np.array([[0, 7, 3, 9], [5, 0, 8, 2], [6, 2, 0, 4], [1, 7, 5, 0]], float)
    strengths = bradley_terry(wins)
    expected = (wins + wins.T) * win_probabilities(strengths)
    np.fill_diagonal(expected, 0)
    assert expected.sum(axis=1) == pytest.approx(wins.sum(axis=1), rel=1e-9)
    assert np.log(strengths).mean() == pytest.approx(0)


def test_order_of_systems_does_not_matter() -> None:
    wins = np.array([[0, 7, 3], [5, 0, 8], [6, 2, 0]], float)
    order = [2, 0, 1]
    assert bradley_terry(wins[np.ix_(order, order)]) == pytest.approx(bradley_terry(wins)[order])


def test_no_finite_solution() -> None:
    never_lost, never_won = [[0, 5], [0, 0]], [[0, 0], [5, 0]]
    for wins in (never_lost, never_won, [[0, 1, 0], [1, 0, 0], [0, 0, 0]]):
        with pytest.raises(AltogetherError, match="give a prior"):
            bradley_terry(wins)
        assert np.isfinite(bradley_terry(wins, prior=1.0)).all()
    for shape in ((1, 2), (2,)):
        with pytest.raises(ValueError, match="square"):
            bradley_terry(np.ones(shape))


def test_a_circle_of_wins_has_a_solution() -> None:
    """Each beat one and lost to one: all are equal, though no two wins were over the same one."""
    assert bradley_terry([[0, 1, 0], [0, 0, 1], [1, 0, 0]]) == pytest.approx([1, 1, 1])


def test_prior_by_hand() -> None:
    """5 wins to 0 and one tie more is 5.5 to 0.5."""
    first, second = bradley_terry([[0, 5], [0, 0]], prior=1.0)
    assert first / second == pytest.approx(11)
