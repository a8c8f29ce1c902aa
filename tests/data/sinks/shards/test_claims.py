"""Whose a shard is, and when its owner is taken for dead."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.data.sinks.shards.claims import (
    LEASE_S,
    ClaimRecord,
    read_claim,
    take_claim,
    this_process,
)
from altogether_rt.data.sinks.shards.store import LocalStore

pytestmark = pytest.mark.lean


def record(**changes: Any) -> ClaimRecord:
    """The claim of this process, renewed now, but for what is different."""
    mine = ClaimRecord("token", *this_process(), renewed=time.time())
    return dataclasses.replace(mine, **changes)


def put(store: LocalStore, claim: ClaimRecord) -> None:
    store.write("claim.json", json.dumps(dataclasses.asdict(claim)).encode())


def test_here_a_process_is_dead_when_it_is_gone() -> None:
    assert not record(renewed=0.0).is_stale, "it lives, however long ago it renewed its claim"
    started = this_process().started
    assert record(started=started + 1).is_stale, "another process has its number now"
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    number = process.pid
    stat = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    theirs = record(pid=number, started=int(stat[19]))
    stale = [theirs.is_stale]
    process.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
    stale.append(theirs.is_stale)  # nobody has waited for it, and it is dead
    process.communicate()
    assert [*stale, theirs.is_stale] == [False, True, True]


@pytest.mark.parametrize("elsewhere", [{"host": "another"}, {"boot": "before"}])
def test_elsewhere_a_process_is_dead_when_its_lease_is_over(elsewhere: dict[str, str]) -> None:
    now = time.time()
    for age_s, stale in ((0, False), (LEASE_S - 20, False), (LEASE_S + 1, True)):
        assert record(**elsewhere, pid=1, renewed=now - age_s).is_stale is stale
    assert record(**elsewhere, renewed=now + LEASE_S + 20).is_stale, "by a clock that is wrong"


def test_a_claim_is_taken_from_the_dead_alone(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    theirs = record(host="another", rows=5, care=2, deaths=3, alone_deaths=1, alone=8)
    put(store, theirs)
    assert take_claim(store, "claim.json") is None
    assert read_claim(store, "claim.json") == theirs
    taken = take_claim(store, "claim.json", died=[theirs.owner])
    assert taken is not None
    claim, former = taken
    assert former == theirs
    mine = claim.record
    assert (mine.owner, mine.rows, mine.care) == (this_process(), 5, 2)
    assert (mine.deaths, mine.alone_deaths, mine.alone) == (3, 1, None)
    with claim:
        claim.update(rows=6)
        found = read_claim(store, "claim.json")
        assert found == claim.record
        assert (found.rows, found.token) == (6, mine.token)
    assert read_claim(store, "claim.json") is None


def test_of_two_that_take_a_stale_claim_the_last_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, quicker = LocalStore(tmp_path), record(token="quicker")
    put(store, record(host="another", renewed=0.0))
    monkeypatch.setattr(time, "sleep", lambda seconds: put(store, quicker))
    assert take_claim(store, "claim.json") is None
    assert read_claim(store, "claim.json") == quicker


def test_a_claim_that_another_has_taken_is_not_given_back(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    taken = take_claim(store, "claim.json")
    assert taken is not None
    claim, former = taken
    assert former is None
    with claim:
        assert claim.is_held()
        put(store, record(token="of another"))
    found = read_claim(store, "claim.json")
    assert found is not None
    assert found.token == "of another"
