"""A contestant in a process of its own: jobs, errors, death, hanging."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.protocol import Worker, WorkerEnded, WorkerError, WorkerTimeout, WorkerUnavailable
from peers.traffic import make_rows

TIMEOUT_S = 60.0
ROWS = make_rows(3, 1000)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    here = {"PYTHONPATH": str(Path(__file__).parent)}
    log = tmp_path / "log"
    with Worker(sys.executable, "fake_adapter:Fake", threads=1, log=log, variables=here) as running:
        yield running


def test_a_job_is_measured(worker: Worker) -> None:
    loaded = worker.load({}, TIMEOUT_S)
    job = worker.run(ROWS, 8, TIMEOUT_S)
    assert loaded["load_s"] > 0
    assert job["images"] == 3 and job["batch"] == 8
    assert job["caption_tokens"] == sum(row.caption_tokens for row in ROWS)
    assert job["encode_s"] == 0.25
    assert job["latencies_s"] == []
    assert 1e6 < job["peak_bytes"] < 1e9


def test_at_batch_one_each_row_is_timed(worker: Worker) -> None:
    worker.load({}, TIMEOUT_S)
    job = worker.run(ROWS, 1, TIMEOUT_S)
    assert len(job["latencies_s"]) == 3
    assert job["seconds"] == pytest.approx(sum(job["latencies_s"]))
    assert job["encode_s"] == 0.75


def test_tokens_of_a_kind_of_prompt(worker: Worker) -> None:
    worker.load({}, TIMEOUT_S)
    tokens = worker.tokens(ROWS, "visual", TIMEOUT_S)
    assert tokens == [[6] * row.caption_tokens for row in ROWS]


def test_a_failure_is_reported_and_survived(worker: Worker) -> None:
    with pytest.raises(WorkerError, match="nothing is loaded"):
        worker.run(ROWS, 1, TIMEOUT_S)
    with pytest.raises(WorkerError, match="ValueError: no such weights"):
        worker.load({"kind": "broken"}, TIMEOUT_S)
    worker.load({"kind": "short"}, TIMEOUT_S)
    with pytest.raises(WorkerError, match="a caption has 1 tokens"):
        worker.run(ROWS, 8, TIMEOUT_S)
    worker.load({}, TIMEOUT_S)
    assert worker.run(ROWS, 8, TIMEOUT_S)["images"] == 3


def test_death_is_an_error(worker: Worker) -> None:
    worker.load({"kind": "dies"}, TIMEOUT_S)
    with pytest.raises(WorkerEnded, match="exit code 3"):
        worker.run(ROWS, 8, TIMEOUT_S)
    with pytest.raises(WorkerEnded, match=r"died|ended"):
        worker.run(ROWS, 8, TIMEOUT_S)


def test_who_hangs_is_ended(worker: Worker) -> None:
    worker.load({"kind": "hangs"}, TIMEOUT_S)
    with pytest.raises(WorkerTimeout, match="too long"):
        worker.run(ROWS, 8, 0.2)


def test_what_libraries_print_goes_to_the_log(worker: Worker, tmp_path: Path) -> None:
    worker.load({}, TIMEOUT_S)
    worker.run(ROWS, 8, TIMEOUT_S)
    worker.__exit__()
    assert "a library that prints to stdout" in (tmp_path / "log").read_text()


def test_a_crash_is_named_with_what_was_said_last(worker: Worker) -> None:
    worker.load({"kind": "crashes"}, TIMEOUT_S)
    with pytest.raises(WorkerEnded, match=r"killed by SIGSEGV \(the GPU is gone\)"):
        worker.run(ROWS, 8, TIMEOUT_S)


def test_a_contestant_says_why_it_cannot_take_part(worker: Worker) -> None:
    with pytest.raises(WorkerUnavailable, match=r"^there is no such device$"):
        worker.load({"kind": "unavailable"}, TIMEOUT_S)


def test_an_adapter_whose_package_is_missing_cannot_take_part(tmp_path: Path) -> None:
    with (
        Worker(sys.executable, "no_such_module:Fake", log=tmp_path / "log") as worker,
        pytest.raises(WorkerUnavailable, match="No module named 'no_such_module'"),
    ):
        worker.load({}, TIMEOUT_S)


def test_a_budget_repeats_a_job_and_times_the_median(worker: Worker, tmp_path: Path) -> None:
    log = tmp_path / "calls"
    worker.load({"log": str(log)}, TIMEOUT_S)
    job = worker.run(ROWS, 8, TIMEOUT_S, budget_s=0.001)
    assert job["passes"] >= 2
    assert log.read_text().splitlines().count("run 3") == job["passes"] + 1  # one warmed up
    assert job["encode_s"] == 0.25  # of one pass
    once = worker.run(ROWS, 8, TIMEOUT_S)
    assert once["passes"] == 1
    assert "stages" not in once
    assert worker.run(ROWS, 8, TIMEOUT_S, stages=True)["stages"] == {"tokens_per_s": 300.0}


def test_a_contestant_is_closed_at_the_end(worker: Worker, tmp_path: Path) -> None:
    log = tmp_path / "calls"
    worker.load({"log": str(log), "check": {"parity": {}}}, TIMEOUT_S)
    assert worker.check(TIMEOUT_S) == {"parity": {}}
    worker.__exit__()
    assert log.read_text().splitlines()[-1] == "close"
