"""Lengths of alt-texts and captions."""

from __future__ import annotations

import json
from statistics import mean, median

import pytest
from traffic import Row, make_rows


def test_lengths_are_spread_as_stated() -> None:
    rows = make_rows(2000, 50272)
    alts = [len(row.alt_ids) for row in rows]
    captions = [row.caption_tokens for row in rows]
    assert min(alts) == 0 and max(alts) == 128
    assert median(alts) == pytest.approx(15, abs=1)
    assert alts.count(0) / len(alts) == pytest.approx(0.1, abs=0.01)
    assert min(captions) == 20 and max(captions) == 190
    assert mean(captions) == pytest.approx(80, abs=2)


@pytest.mark.parametrize("seed", range(5))
def test_a_few_rows_are_typical(seed: int) -> None:
    rows = make_rows(8, 50272, seed)
    assert mean(row.caption_tokens for row in rows) == pytest.approx(80, rel=0.25)
    assert 8 <= median(len(row.alt_ids) for row in rows) <= 25


def test_the_seed_and_nothing_else_decides() -> None:
    assert make_rows(20, 50272) == make_rows(20, 50272)
    assert make_rows(20, 50272)[:7] == make_rows(7, 50272)
    assert make_rows(20, 50272, seed=1) != make_rows(20, 50272, seed=2)


def test_ids_are_words_of_the_vocabulary() -> None:
    rows = make_rows(50, 300)
    ids = [token for row in rows for token in (*row.alt_ids, *row.stand_in_ids)]
    assert min(ids) >= 4 and max(ids) < 300
    assert {len(row.stand_in_ids) for row in rows} == {40}
    assert all(row.prompt_tokens == 40 + len(row.alt_ids) for row in rows)


def test_rows_survive_json() -> None:
    row = make_rows(4, 1000)[3]
    assert Row.from_dict(json.loads(json.dumps(row.to_dict()))) == row
