"""Which shard is given out next, and when deaths end a run."""

from __future__ import annotations

import pytest

from altogether_rt.data.shards.base import Shard
from altogether_rt.data.sinks.shards.claims import ProcessId
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.shards.handout import Deaths, HandOut
from altogether_rt.jobs.shards.plan import ShardTask

pytestmark = pytest.mark.lean


def task(name: str, num_bytes: int | None) -> ShardTask:
    return ShardTask(Shard(name, f"{name}.tar", num_bytes, None, None))


def test_large_shards_first_and_those_of_the_dead_before_them() -> None:
    shards = HandOut([task("a", 1), task("b", 3), task("c", None), task("d", 3)])
    assert len(shards) == 4
    first = shards.next()
    assert first is not None and first.shard.name == "b"
    dead = ProcessId("host", "boot", 7, 8)
    shards.put_back(first, dead)
    assert len(shards) == 4
    again = shards.next()
    assert again is not None and again.shard is first.shard and again.died == (dead,)
    shards.put_back(again, None)  # of a worker that had not opened its captioner
    order = []
    while (given := shards.next()) is not None:
        order.append(given.shard.name)
    assert order == ["b", "d", "a", "c"] and not shards


def test_deaths_in_a_row_end_the_run() -> None:
    deaths = Deaths()
    for _ in range(2):
        deaths.add("it died", was_ready=False)
    deaths.note_ready()
    for _ in range(2):
        deaths.add("it died", was_ready=False)
    with pytest.raises(AltogetherError, match=r"^it died, and so did those before it"):
        deaths.add("it died", was_ready=False)


def test_deaths_without_a_row_end_the_run() -> None:
    deaths = Deaths()
    for _ in range(2):
        for _ in range(11):
            deaths.add("it died", was_ready=True)
        deaths.note_rows()
    for _ in range(11):
        deaths.add("it died", was_ready=True)
    with pytest.raises(AltogetherError):
        deaths.add("it died", was_ready=True)


def test_a_machine_takes_its_workers_with_it() -> None:
    deaths = Deaths(num_together=16)
    for _ in range(18):
        deaths.add("it died", was_ready=False)
    with pytest.raises(AltogetherError):
        deaths.add("it died", was_ready=False)
