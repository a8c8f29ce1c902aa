"""The engine of a cluster with scripted workers: every shard once, whichever workers die."""

from __future__ import annotations

from collections import Counter

import pytest

from altogether_rt.data.shards.base import Shard
from altogether_rt.data.sinks.shards.stats import RowCounts
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.shards.cluster import engine as engine_module
from altogether_rt.jobs.shards.cluster.base import WorkerDied
from altogether_rt.jobs.shards.cluster.engine import ClusterShardEngine
from altogether_rt.jobs.shards.cluster.room import Node
from altogether_rt.jobs.shards.cluster.worker import Bug
from altogether_rt.jobs.shards.plan import ShardResult, ShardTask
from altogether_rt.jobs.worker import Failure
from tests.fake_captioner import FakeCaptioner
from tests.jobs.shards.cluster.scripted import News, ScriptedCluster, fine
from tests.jobs.shards.stand_ins import job_for

pytestmark = pytest.mark.lean

TASKS = [ShardTask(Shard(f"{n:05}", f"{n:05}.tar", 100 + n)) for n in range(7)]


class Heard:
    """What an engine told."""

    def __init__(self) -> None:
        self.results: list[ShardResult] = []
        self.rows = 0
        self.restarts: list[str] = []
        self.notes: list[str] = []

    def on_rows(self, made: RowCounts) -> None:
        self.rows += made.rows

    def run(
        self,
        cluster: ScriptedCluster,
        workers: int | None = 2,
        tasks: list[ShardTask] = TASKS,
        threads: int | None = None,
    ) -> Heard:
        opened = ClusterShardEngine(
            cluster.connect,
            lambda threads: FakeCaptioner,
            workers=workers,
            threads=threads,
            on_restart=self.restarts.append,
            note=self.notes.append,
        )
        with opened as engine:
            engine.run(tasks, job_for("out"), self.on_rows, self.results.append)
        assert cluster.left or not tasks
        return self

    @property
    def shards(self) -> Counter[str]:
        return Counter(result.shard for result in self.results)


ONCE = Counter({task.shard.name: 1 for task in TASKS})


def test_each_shard_is_done_once() -> None:
    cluster = ScriptedCluster()
    heard = Heard().run(cluster)
    assert heard.shards == ONCE and heard.rows == 35 and not heard.restarts + heard.notes
    given = [[task.shard.name for task in worker.given] for worker in cluster.workers]
    assert given == [["00006", "00004", "00002", "00000"], ["00005", "00003", "00001"]]
    assert all(worker.stopped and not worker.killed for worker in cluster.workers)


def test_nothing_to_do_starts_nothing() -> None:
    cluster = ScriptedCluster()
    assert Heard().run(cluster, tasks=[]).results == [] and cluster.workers == []


def test_no_more_workers_than_shards_or_room() -> None:
    cluster = ScriptedCluster()
    Heard().run(cluster, tasks=TASKS[:1])
    assert len(cluster.workers) == 1
    cluster = ScriptedCluster()
    heard = Heard().run(cluster, workers=3)
    assert len(cluster.workers) == 2
    assert heard.notes == ["The cluster has room for 2 workers of 1 CPU, and --workers is 3."]
    cluster = ScriptedCluster(machines=[Node(8)])
    Heard().run(cluster, workers=None)
    assert len(cluster.workers) == 2  # of four cores each


def test_a_shard_of_a_dead_worker_goes_to_the_next() -> None:
    """The worker is told who died, so that the claim of that process holds nobody up."""

    def behaviour(number: int, task: ShardTask | None) -> News:
        return WorkerDied("the node is gone") if number == 0 and task else fine(number, task)

    cluster = ScriptedCluster(behaviour)
    heard = Heard().run(cluster)
    assert heard.shards == ONCE
    assert heard.restarts == [
        "worker 1 on host0 died (the node is gone): another one is started, and goes on with 00006."
    ]
    (again,) = [t for worker in cluster.workers for t in worker.given if t.died]
    assert again.shard.name == "00006" and again.died[0].host == "host0"
    assert len(cluster.workers) == 3


def test_a_worker_that_waits_for_room_holds_no_shard() -> None:
    """The other one does everything; it is not waited for at the end."""

    cluster = ScriptedCluster()
    cluster_wait = cluster.wait

    def wait(workers, timeout_s):  # type: ignore[no-untyped-def]
        return cluster_wait([w for w in workers if w is cluster.workers[0]], timeout_s)

    cluster.wait = wait  # type: ignore[method-assign]
    heard = Heard().run(cluster)
    assert heard.shards == ONCE
    assert cluster.workers[1].given == [] and cluster.workers[1].killed


def test_without_any_room_left_it_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as other jobs have the machines it says so; if there are none, it ends."""
    monkeypatch.setattr(engine_module, "_PATIENCE_S", 0.0)
    cluster, looks = ScriptedCluster(), 0

    def wait(workers, timeout_s):  # type: ignore[no-untyped-def]
        nonlocal looks
        looks += 1
        if looks == 2:
            cluster.machines = [Node(0)]
        return []

    cluster.wait = wait  # type: ignore[method-assign]
    heard = Heard()
    with pytest.raises(AltogetherError, match="no machine of the Ray cluster has room for a wor"):
        heard.run(cluster)
    assert heard.notes == ["Waiting for room in the Ray cluster: a worker takes 1 CPU."]
    assert all(worker.killed for worker in cluster.workers) and cluster.left


def test_too_large_a_worker_is_refused_at_once() -> None:
    cluster = ScriptedCluster()
    with pytest.raises(AltogetherError, match="a worker takes 4 CPUs of one machine"):
        Heard().run(cluster, threads=4)
    assert cluster.left and cluster.workers == []


def test_workers_that_never_open_end_the_run() -> None:
    cluster = ScriptedCluster(lambda number, task: WorkerDied("no module named altogether_rt"))
    with pytest.raises(AltogetherError, match="no module named altogether_rt"):
        Heard().run(cluster)
    assert len(cluster.workers) <= 2 + 5  # three, and once the two that one cause may end


def test_what_a_worker_cannot_go_on_from_ends_the_run() -> None:
    def failing(number: int, task: ShardTask | None) -> News:
        return [Failure("the bundle is gone.")] if task else fine(number, task)

    with pytest.raises(AltogetherError, match=r"^the bundle is gone\.$"):
        Heard().run(ScriptedCluster(failing))

    def full(number: int, task: ShardTask | None) -> News:
        return [OSError(28, "No space left on device")] if task else fine(number, task)

    with pytest.raises(OSError, match="No space left"):
        Heard().run(ScriptedCluster(full))


def test_a_bug_counts_as_a_death() -> None:
    def behaviour(number: int, task: ShardTask | None) -> News:
        return [Bug("KeyError: 'x'")] if number == 1 and task else fine(number, task)

    cluster = ScriptedCluster(behaviour)
    heard = Heard().run(cluster)
    assert heard.shards == ONCE and cluster.workers[1].killed
    assert heard.restarts[0].startswith("worker 2 on host1 failed with KeyError: 'x':")


def test_workers_stay_for_the_next_run() -> None:
    cluster, heard = ScriptedCluster(), Heard()
    job = job_for("out")
    with ClusterShardEngine(cluster.connect, lambda threads: FakeCaptioner, workers=2) as engine:
        for tasks in (TASKS[:3], TASKS[3:]):
            engine.run(tasks, job, heard.on_rows, heard.results.append)
    assert heard.shards == ONCE and len(cluster.workers) == 2
