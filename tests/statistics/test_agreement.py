"""Krippendorff's alpha against the package `krippendorff` and values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from altogether_rt.statistics import krippendorff_alpha

pytestmark = pytest.mark.lean

#: Krippendorff's example of four coders and twelve units; None where a coder gave no answer.
CODERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


def test_example_with_missing_answers() -> None:
    """`krippendorff` 0.9.0 gives 0.743421052631579; the book prints 0.743."""
    alpha = krippendorff_alpha(zip(*CODERS, strict=True))
    assert alpha == pytest.approx(0.743421052631579, abs=1e-12)


def test_random_answers() -> None:
    """`krippendorff` 0.9.0 gives 0.05128322639780014 for these 5 coders of 40 units."""
    rng = np.random.default_rng(3)
    answers = rng.integers(0, 3, (5, 40)).astype(float)
    answers[rng.random(answers.shape) < 0.4] = np.nan
    units = [[None if np.isnan(a) else int(a) for a in unit] for unit in answers.T]
    assert krippendorff_alpha(units) == pytest.approx(0.05128322639780014, abs=1e-12)


def test_agrees_with_the_package() -> None:
    krippendorff = pytest.importorskip("krippendorff", reason="needs the package krippendorff")
    rng = np.random.default_rng(9)
    for _ in range(20):
        answers = rng.integers(0, 4, (int(rng.integers(2, 6)), 30)).astype(float)
        answers[rng.random(answers.shape) < 0.3] = np.nan
        expected = krippendorff.alpha(reliability_data=answers, level_of_measurement="nominal")
        units = [[None if np.isnan(a) else int(a) for a in unit] for unit in answers.T]
        assert krippendorff_alpha(units) == pytest.approx(expected, abs=1e-12)


def test_by_hand() -> None:
    # Two coders: A A, A B, B B. Of 6 answers 3 are A: expected disagreement 2 · 3 · 3 / (6 · 5),
    # observed 2 / 6: alpha = 1 - (1/3) / (3/5).
    units = [["A", "A"], ["A", "B"], ["B", "B"]]
    assert krippendorff_alpha(units) == pytest.approx(1 - (1 / 3) / (3 / 5))


def test_bounds() -> None:
    assert krippendorff_alpha([["A", "A"], ["B", "B"], ["A", None]]) == 1
    disagreement = krippendorff_alpha([["A", "B"], ["B", "A"]])
    assert disagreement is not None and disagreement < 0


def test_undefined() -> None:
    assert krippendorff_alpha([]) is None
    assert krippendorff_alpha([["A"], ["B", None]]) is None  # nobody answered twice
    assert krippendorff_alpha([["A", "A"], ["A", "A"]]) is None  # chance agrees as well
