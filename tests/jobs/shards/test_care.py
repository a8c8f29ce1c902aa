"""What the death of a process teaches the next one."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("pyarrow")

from altogether_rt.data.sinks.shards.claims import ClaimRecord
from altogether_rt.jobs.shards.care import Care, care_after

pytestmark = pytest.mark.lean

RECORD = ClaimRecord("t", "host", "boot", 1, 2, renewed=0.0, rows=40)


def former(**changes: object) -> ClaimRecord:
    return dataclasses.replace(RECORD, **changes)  # type: ignore[arg-type]


def test_care_grows_with_deaths() -> None:
    assert care_after(None, 0) == Care()
    assert care_after(former(), 40) == Care(1, deaths=1)
    assert care_after(former(care=1, deaths=1), 40) == Care(2, deaths=2)
    assert care_after(former(care=2, deaths=2), 40).given_up
    assert care_after(former(care=1, deaths=2), 72) == Care(2)


def test_two_deaths_over_a_sample_alone_condemn_it() -> None:
    once = care_after(former(care=2, alone=40), 40)
    assert once == Care(2, alone_deaths=1)
    twice = care_after(former(care=2, alone=40, alone_deaths=1), 40)
    assert twice.crashed == 40
    # It had made another row durable before: the sample may not be blamed yet.
    assert care_after(former(care=2, alone=41, alone_deaths=1), 41).crashed is None


def test_a_sample_that_has_its_answer_is_not_blamed() -> None:
    """However often the process is killed while the row is made durable."""
    record = former(care=2, alone=None, answered=True, deaths=2, alone_deaths=1)
    assert care_after(record, 40) == Care(2, deaths=2, alone_deaths=1)
    assert care_after(record, 40).crashed is None
