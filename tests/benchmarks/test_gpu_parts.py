"""The parts of the GPU suite: their time, their crashes, what they lack, the memory they take."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import memory, skip, worker
from benchmarks.gpu.clock import Deadline
from benchmarks.gpu.memory import DeviceMemory, query_gpu
from benchmarks.gpu.own import measure_sizes
from benchmarks.gpu.parts import Part, run_part, worker_command


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
    code = (
        "import json, subprocess, sys, time\n"
        f"open({str(answer)!r}, 'w').write(json.dumps({{'sizes': [1]}}))\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    part = python("slow", code, answer=answer, needs_s=0, limit_s=1.5)
    outcome = run_part(part, Deadline(60))
    assert (outcome.status, outcome.reason) == ("timeout", "stopped after 2 s")
    assert outcome.data == {"sizes": [1]}
    child = Path("/proc", (tmp_path / "child").read_text(), "stat")
    for _ in range(100):  # it ends with its parent
        if not child.exists() or child.read_text().split()[2] in "ZX":
            return
        time.sleep(0.05)
    pytest.fail("what the part had started runs on")


def test_batch_sizes_go_on_while_there_is_time() -> None:
    clock, told = Clock(), {}

    def one(batch: int) -> dict[str, Any]:
        clock.now += batch
        return {"took": batch}

    # 1 + 8 seconds are spent; 32 would need 8 · 32 / 8 = 32 of the 31 that are left.
    measure_sizes([32, 1, 8], Deadline(40, clock), lambda **news: told.update(news), one)
    assert told["sizes"] == [{"batch": 1, "took": 1}, {"batch": 8, "took": 8}]
    assert told["sizes_left_out"] == [32]
    told.clear()
    measure_sizes([8, 1, 32], Deadline(41, clock), lambda **news: told.update(news), one)
    assert [size["batch"] for size in told["sizes"]] == [1, 8, 32]
    assert "sizes_left_out" not in told


def test_a_batch_that_fails_ends_the_sweep_and_loses_nothing() -> None:
    told: dict[str, Any] = {}

    def one(batch: int) -> dict[str, Any]:
        if batch > 8:
            raise RuntimeError("no profile\n for so many rows")
        return {}

    measure_sizes([1, 8, 32, 128], Deadline(60), lambda **news: told.update(news), one)
    assert [size["batch"] for size in told["sizes"]] == [1, 8]
    assert told["sizes_failed"] == {"32": "no profile for so many rows"}
    with pytest.raises(RuntimeError, match="no profile"):
        measure_sizes([32, 128], Deadline(60), lambda **news: None, one)


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


def test_a_worker_says_why_it_is_skipped(tmp_path: Path) -> None:
    answer = tmp_path / "answer.json"
    command = worker_command("public-pipeline", answer, device="cuda", checkpoint="nowhere")
    outcome = run_part(Part("peer", command, answer), Deadline(60))
    assert outcome.status == "skipped"
    assert "finds no CUDA device" in str(outcome.reason)
    assert outcome.data == {}


def test_a_worker_fails_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = str(tmp_path / "a.json")
    request = {"task": "reference", "answer": answer, "device": "cpu", "checkpoint": "nowhere"}
    assert worker.main(json.dumps(request)) == 1
    assert "nowhere is not a checkpoint" in capsys.readouterr().err


def test_a_package_that_is_missing() -> None:
    skip.need("json", "no_such_module")
    with pytest.raises(skip.Skip, match="no_such_module or neither_this is not installed"):
        skip.need("no_such_module", "neither_this")


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
    monkeypatch.setattr(memory, "INTERVAL_S", 0.01)
    seen = threading.Event()
    real = memory._used_bytes

    def noted() -> int | None:
        answer = real()
        if answer == 900 << 20:
            seen.set()
        return answer

    monkeypatch.setattr(memory, "_used_bytes", noted)
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
