"""The parts of the GPU suite: their time, their crashes, what they lack, the memory they take."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from gpu import tasks
from harness import adapter, device_memory
from harness.commands import Part, run_part
from harness.device_memory import DeviceMemory, query_gpu
from harness.protocol import Worker, WorkerUnavailable
from harness.schedule import Cell, Deadline, Estimates, largest_first
from harness.turn import Sweep, measure_cells


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def python(name: str, code: str, **options: Any) -> Part:
    return Part(name, [sys.executable, "-c", code], **options)


# Time


def test_a_deadline_is_shared_and_what_is_left_goes_on() -> None:
    clock = Clock()
    whole = Deadline(60, clock)
    first = whole.share(3)
    assert first.remaining_s == 20
    clock.now += 5  # the first part took 5 of its 20 seconds
    assert first.remaining_s == 15
    assert whole.share(2).remaining_s == 27.5
    clock.now += 100
    assert whole.remaining_s == -45


def test_a_part_without_time_is_not_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    part = python("late", f"open({str(mark)!r}, 'w')", needs_s=30)
    outcome = run_part(part, Deadline(10, Clock()))
    assert (outcome.status, outcome.ok) == ("skipped", False)
    assert outcome.reason == "no time: it needs about 30 s and 10 s are left"
    assert not mark.exists()


def test_a_part_that_takes_too_long_leaves_what_it_had(tmp_path: Path) -> None:
    answer = tmp_path / "answer.json"
    # In the shell, which starts at once: on a busy machine Python may take longer than the limit.
    code = """echo '{"sizes": [1]}' > "$1"; sleep 600 & echo $! > "$2"; sleep 600"""
    command = ["sh", "-c", code, "sh", str(answer), str(tmp_path / "child")]
    part = Part("slow", command, answer=answer, needs_s=0, limit_s=1.5)
    outcome = run_part(part, Deadline(60))
    assert (outcome.status, outcome.reason) == ("timeout", "stopped after 2 s")
    assert outcome.data == {"sizes": [1]}
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    for _ in range(100):  # it ends with its parent
        if not child.exists() or child.read_text().split()[2] in "ZX":
            return
        time.sleep(0.05)
    pytest.fail("what the part had started runs on")


def sizes(*listed: int) -> list[Cell]:
    return [Cell(size, size) for size in listed]


def batches(sweep: Sweep) -> list[int]:
    return [cell.batch for cell in sweep.done]


def test_batch_sizes_go_on_while_there_is_time() -> None:
    clock = Clock()

    def one(cell: Cell, left_s: float) -> dict[str, Any]:
        clock.now += cell.batch
        return {"took": cell.batch}

    # 1 + 8 seconds are spent; 32 would need 8 · 32 / 8 = 32 of the 31 that are left.
    sweep = measure_cells(sizes(1, 8, 32), Estimates(), Deadline(40, clock), one)
    assert list(sweep.done.items()) == [(Cell(1, 1), {"took": 1}), (Cell(8, 8), {"took": 8})]
    assert sweep.left_out == [Cell(32, 32)]
    sweep = measure_cells(sizes(1, 8, 32), Estimates(), Deadline(41, clock), one)
    assert batches(sweep) == [1, 8, 32]
    assert not sweep.left_out


def test_the_largest_batch_is_measured_where_there_is_time_for_one() -> None:
    clock = Clock()

    def one(cell: Cell, left_s: float) -> dict[str, Any]:
        clock.now += 10
        return {}

    listed = largest_first(sizes(1, 8, 128))
    known = Estimates(smaller_batch_factor=math.inf)
    sweep = measure_cells(listed, known, Deadline(15, clock), one)
    assert batches(sweep) == [128]
    assert sweep.left_out == sizes(8, 1)


def test_a_batch_that_fails_ends_the_sweep_and_loses_nothing() -> None:
    def one(cell: Cell, left_s: float) -> dict[str, Any]:
        if cell.batch > 8:
            raise RuntimeError("no profile\n for so many rows")
        return {}

    sweep = measure_cells(sizes(1, 8, 32, 128), Estimates(), Deadline(60), one)
    assert batches(sweep) == [1, 8]
    assert sweep.failed == {Cell(32, 32): "no profile for so many rows"}
    with pytest.raises(RuntimeError, match="no profile"):
        measure_cells(sizes(32, 128), Estimates(), Deadline(60), one)


def test_after_a_large_batch_that_fails_come_the_smaller_ones() -> None:
    def one(cell: Cell, left_s: float) -> dict[str, Any]:
        if cell.batch > 32:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        if cell.batch == 32:
            raise RuntimeError("no profile")
        return {}

    sweep = measure_cells(largest_first(sizes(1, 8, 32, 128)), Estimates(), Deadline(60), one)
    assert batches(sweep) == [8, 1]
    assert sweep.out_of_memory == sizes(128)
    assert sweep.failed == {Cell(32, 32): "no profile"}


# What crashes, what is missing


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("raise RuntimeError('CUDA error: out of memory')", "CUDA error: out of memory"),
        ("import sys; sys.exit(3)", "exit code 3"),
    ],
)
def test_a_crash_is_the_parts_alone(code: str, reason: str) -> None:
    outcome = run_part(python("crash", code), Deadline(60))
    assert outcome.status == "failed"
    assert str(outcome.reason).endswith(reason)


def test_a_contestant_says_why_it_is_skipped(tmp_path: Path) -> None:
    contestant = "harness.adapters.huggingface:HuggingFace"
    log = tmp_path / "log"
    with (
        Worker(sys.executable, contestant, log=log) as worker,
        pytest.raises(WorkerUnavailable, match="finds no CUDA device"),
    ):
        worker.load({"device": "cuda", "checkpoint": "nowhere"}, 60)


def test_a_task_says_why_it_is_skipped(tmp_path: Path) -> None:
    answer = tmp_path / "answer.json"
    request = {"task": "ceilings", "answer": str(answer), "device": "cuda", "dtypes": []}
    command = [sys.executable, "-m", "gpu.tasks", json.dumps(request)]
    outcome = run_part(Part("ceilings", command, answer), Deadline(60))
    assert outcome.status == "skipped"
    assert "finds no CUDA device" in str(outcome.reason)
    assert outcome.data == {}


def test_a_task_fails_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = str(tmp_path / "a.json")
    request = {"task": "reference", "answer": answer, "device": "cpu", "checkpoint": "nowhere"}
    assert tasks.main(json.dumps(request)) == 1
    assert "nowhere is not a checkpoint" in capsys.readouterr().err


def test_a_package_that_is_missing() -> None:
    adapter.need("json", "no_such_module")
    with pytest.raises(adapter.Unavailable, match="no_such_module or neither_this is not"):
        adapter.need("no_such_module", "neither_this")


# Memory


def fake_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_device_memory_is_the_most_in_use_less_what_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = tmp_path / "used"
    fake_nvidia_smi(tmp_path, monkeypatch, f'echo "$(/bin/cat {used})"')
    monkeypatch.setattr(device_memory, "INTERVAL_S", 0.01)
    seen = threading.Event()
    real = device_memory._used_bytes

    def noted() -> int | None:
        answer = real()
        if answer == 900 << 20:
            seen.set()
        return answer

    monkeypatch.setattr(device_memory, "_used_bytes", noted)
    used.write_text("500")
    with DeviceMemory() as watched:
        used.write_text("900")
        assert seen.wait(10)
        used.write_text("600")
    assert watched.peak_bytes == 400 << 20


def test_without_nvidia_smi_there_is_no_memory_to_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert query_gpu("name") is None
    with DeviceMemory() as watched:
        pass
    assert watched.peak_bytes is None
    fake_nvidia_smi(tmp_path, monkeypatch, "echo 'NVIDIA Test, 9.0'")
    assert query_gpu("name", "compute_cap") == ["NVIDIA Test", "9.0"]
    fake_nvidia_smi(tmp_path, monkeypatch, "echo 'No devices were found'; exit 6")
    assert query_gpu("name") is None
