"""A cluster's worker, in this process: what it tells, and what it leaves when it is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

from altogether_rt.data.sinks.shards.claims import ProcessId, take_claim, this_process
from altogether_rt.data.sinks.shards.open_store import open_store
from altogether_rt.data.sinks.shards.output import claim_name
from altogether_rt.data.sinks.shards.stats import RowCounts
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.shards.cluster import worker as worker_module
from altogether_rt.jobs.shards.cluster.worker import (
    Bug,
    ClusterWorker,
    Message,
    Ready,
    open_on_node,
)
from altogether_rt.jobs.shards.plan import ShardResult, ShardTask
from altogether_rt.jobs.worker import Failure
from altogether_rt.opening import resolve_captioner
from tests.fake_captioner import FakeCaptioner
from tests.jobs.shards.stand_ins import job_for, make_tars

pytestmark = pytest.mark.lean


def hear(worker: ClusterWorker, until: Callable[[list[Message]], bool]) -> list[Message]:
    messages: list[Message] = []
    deadline = time.monotonic() + 30
    while not until(messages) and time.monotonic() < deadline:
        messages += worker.news()
    return messages


def num_of(kind: type, messages: list[Message]) -> int:
    return sum(isinstance(message, kind) for message in messages)


def test_it_tells_of_rows_and_shards(tmp_path: Path) -> None:
    tasks = [ShardTask(shard) for shard in make_tars(tmp_path / "in", 2, 20)]
    worker = ClusterWorker(FakeCaptioner, job_for(tmp_path / "out"), 1)
    for task in tasks:
        worker.give(task)
    messages = hear(worker, lambda heard: num_of(ShardResult, heard) == 2)
    worker.stop()
    assert messages[0] == Ready(this_process()) or isinstance(messages[0], RowCounts)
    results = [message for message in messages if isinstance(message, ShardResult)]
    assert [(r.shard, r.state) for r in results] == [("00000", "done"), ("00001", "done")]
    counts = [message for message in messages if isinstance(message, RowCounts)]
    assert sum(count.rows for count in counts) == 40


def test_stopped_it_keeps_its_rows_and_gives_the_shard_back(tmp_path: Path) -> None:
    (shard,) = make_tars(tmp_path / "in", 1, 200)
    job = job_for(tmp_path / "out", part_rows=1000)
    worker = ClusterWorker(partial(FakeCaptioner, delay_s=0.01), job, 1)
    worker.give(ShardTask(shard))
    made = hear(worker, lambda heard: num_of(RowCounts, heard) > 0)
    worker.stop()
    made += worker.news()
    assert num_of(ShardResult, made) == num_of(Bug, made) == num_of(Failure, made) == 0
    out = open_store(job.out)
    parts = [name for name in out.all_files() if name.endswith(".arrow")]
    assert len(parts) == 1 and not out.read(claim_name(shard.name))
    rows = sum(message.rows for message in made if isinstance(message, RowCounts))
    assert int(parts[0].rpartition("-")[2].removesuffix(".arrow")) == rows < 200


@pytest.mark.parametrize(
    ("error", "kind"),
    [(AltogetherError("x"), Failure), (OSError(28, "full"), OSError), (KeyError("x"), Bug)],
)
def test_why_it_cannot_go_on(tmp_path: Path, error: Exception, kind: type) -> None:
    def fail() -> FakeCaptioner:
        raise error

    worker = ClusterWorker(fail, job_for(tmp_path / "out"), 1)
    (message,) = hear(worker, bool)
    assert isinstance(message, kind)


def test_a_claim_of_a_process_that_is_known_to_be_dead(tmp_path: Path) -> None:
    """On another machine it cannot be seen; here it even lives."""
    store = open_store(tmp_path)
    taken = take_claim(store, "claim.json")
    assert taken is not None and take_claim(store, "claim.json") is None
    other = ProcessId("elsewhere", "boot", 1, 2)
    assert take_claim(store, "claim.json", (other,)) is None
    again = take_claim(store, "claim.json", (other, this_process()))
    assert again is not None and again[1] == taken[0].record


def test_the_captioner_of_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name there, and only if it is the same."""
    captioner = resolve_captioner("starter")
    monkeypatch.setattr(worker_module, "open_captioner", lambda found, **options: (found, options))
    here = this_process()
    opened: object = open_on_node(captioner, here, threads=2)
    assert opened == (captioner, {"threads": 2})
    elsewhere = here._replace(host="elsewhere")
    found: object = open_on_node(captioner, elsewhere, threads=2)
    assert isinstance(found, tuple) and found[0].bundle_id == captioner.bundle_id
    other = type(captioner)(**{**captioner.__dict__, "bundle_id": "0" * 12})
    with pytest.raises(AltogetherError, match="not the captioner of this run"):
        open_on_node(other, elsewhere)


def test_a_checkpoint_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the types that were asked for, which are a part of what it is."""
    pytest.importorskip("torch", reason="needs the extra train")
    from tests.tiny import save_tiny_checkpoint

    folder = save_tiny_checkpoint(tmp_path, monkeypatch)
    captioner = resolve_captioner(folder, device="cpu", dtype="bfloat16")
    monkeypatch.setattr(worker_module, "open_captioner", lambda found, **options: found)
    found: object = open_on_node(captioner, this_process()._replace(host="elsewhere"))
    assert found == captioner
