"""What is measured, and what still fits."""

from __future__ import annotations

import math

import pytest
from harness.schedule import Cell, Estimates, allowance_s, cells, largest_first


def test_cells_in_order_of_what_they_tell() -> None:
    listed = cells([1, 8, 16, 32], images=16, single_images=4, growth=[16, 256])
    keys = [cell.key for cell in listed]
    assert keys == ["8x16", "1x4", "16x16", "32x32", "16x256"]


def test_estimates_come_from_the_nearest_batch() -> None:
    estimates = Estimates()
    assert estimates.seconds(Cell(8, 16)) is None
    estimates.add(Cell(8, 16), 32.0)
    assert estimates.seconds(Cell(8, 16)) == 32
    assert estimates.seconds(Cell(16, 64)) == 128
    assert estimates.seconds(Cell(1, 4)) == pytest.approx(4 * 2 * 2)  # dearer one by one
    estimates.add(Cell(16, 16), 16.0)
    assert estimates.seconds(Cell(32, 32)) == 32
    estimates.add(Cell(8, 16), 48.0)
    assert estimates.seconds(Cell(8, 16)) == 40
    assert [estimates.repetitions(Cell(batch, 16)) for batch in (8, 16, 1)] == [2, 1, 0]


def test_all_turns_together_keep_the_budget() -> None:
    left_s, rounds, turns = 1000.0, 3, 9
    for index in range(rounds):
        for position in range(turns):
            share_s = allowance_s(left_s, turns - position, rounds - index)
            assert 0 <= share_s <= left_s
            left_s -= share_s
    assert left_s == pytest.approx(0, abs=1)


def test_quick_turns_leave_their_time_to_the_others() -> None:
    assert allowance_s(900, 9, 1) == pytest.approx(180)
    assert allowance_s(890, 2, 1) == pytest.approx(801)
    assert allowance_s(1000, 1, 2) == 650


def test_the_largest_batches_come_first_where_that_is_wanted() -> None:
    listed = largest_first(cells([1, 8, 32], images=16, single_images=4, growth=[16, 256]))
    assert [cell.key for cell in listed] == ["32x32", "16x256", "16x16", "8x16", "1x4"]


def test_a_smaller_batch_takes_no_longer_than_a_larger_one() -> None:
    estimates = Estimates(smaller_batch_factor=math.inf)
    estimates.add(Cell(128, 128), 12.0)
    assert estimates.seconds(Cell(8, 8)) == 12
    assert estimates.seconds(Cell(8, 24)) == 36  # three batches
    assert estimates.seconds(Cell(256, 256)) == 24


def test_what_is_as_large_or_larger_fails_too() -> None:
    assert Cell(32, 32).covers(Cell(8, 16))
    assert Cell(8, 16).covers(Cell(8, 16))
    assert not Cell(8, 64).covers(Cell(16, 16))
