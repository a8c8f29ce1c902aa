"""Whoever dies whenever: the same bytes, and at most a part made twice for a death."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")

from altogether_rt.jobs.executor import LocalExecutor
from altogether_rt.jobs.shards.engine import LocalShardEngine
from altogether_rt.jobs.shards.run import caption_shards, plan_run
from tests.fake_captioner import FakeCaptioner
from tests.jobs.shards.stand_ins import job_for, make_tars

pytestmark = pytest.mark.lean


@pytest.mark.parametrize("options", [(), ("--retry",), ("--twice", "1")], ids=str)
def test_killed_between_two_system_calls(root: Path, options: tuple[str, ...]) -> None:
    """Some of the calls; `python -m tests.jobs.shards.kill_points` tries each of them."""
    program = [sys.executable, "-m", "tests.jobs.shards.kill_points", "--every", "29", *options]
    done = subprocess.run(program, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] >= 4


PROGRAM = """
import sys
from functools import partial
from pathlib import Path
from altogether_rt.jobs.shards.processes import ProcessShardEngine
from altogether_rt.jobs.shards.run import caption_shards, plan_run
from tests.fake_captioner import FakeCaptioner
from tests.jobs.shards.stand_ins import job_for, shard_of
if __name__ == "__main__":
    shards = [shard_of(path) for path in sorted(Path("in").glob("*.tar"))]
    job = job_for("out")
    with ProcessShardEngine(2, partial(FakeCaptioner, delay_s=0.02)) as engine:
        summary = caption_shards(plan_run(shards, job), job, engine)
    assert summary.shards == {"done": len(shards)}, summary
"""


@pytest.mark.usefixtures("uncovered")
def test_killed_at_random_moments(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver with its workers, or a worker; `benchmarks/shards/kills.py` does it longer."""
    monkeypatch.chdir(tmp_path)
    shards = make_tars(Path("in"), 3, 30)
    Path("program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    rng = random.Random(0)
    for victim in ("worker", "driver", "worker"):
        process = subprocess.Popen([sys.executable, "program.py"], env=environment)
        _wait_for_claim(process, Path("out"))
        time.sleep(rng.uniform(0.0, 0.3))
        if victim == "driver":
            process.kill()
            process.wait()
        else:
            if (worker := _worker_of(process.pid)) is not None:
                os.kill(worker, signal.SIGKILL)
            assert process.wait(timeout=60) == 0
            shutil.rmtree("out/_work", ignore_errors=True)
            for path in Path("out").glob("0000[01]*"):  # something to do for the next one
                path.unlink()
    subprocess.run([sys.executable, "program.py"], env=environment, check=True, timeout=60)
    job = job_for("whole")
    with LocalShardEngine(lambda: nullcontext(LocalExecutor(FakeCaptioner()))) as engine:
        caption_shards(plan_run(shards, job), job, engine)
    assert _files("out") == _files("whole")
    assert not list(Path("out").rglob("_work/**/*.*"))


def _wait_for_claim(process: subprocess.Popen[bytes], out: Path) -> None:
    """Until one of the workers has a shard."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        worker = _worker_of(process.pid)
        for path in out.rglob("claim.json"):
            with suppress(OSError):
                if worker is not None and f'"pid": {worker},' in path.read_text():
                    return
        time.sleep(0.02)


def _worker_of(pid: int) -> int | None:
    """A worker process of `pid`; None if it has none."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in (path / "cmdline").read_bytes():
                return int(path.name)
    return None


def _files(out: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(out).glob("*.parquet")}


LIMITED = """
import resource, signal, sys
from contextlib import nullcontext, suppress
from pathlib import Path
from altogether_rt.jobs.executor import LocalExecutor
from altogether_rt.jobs.shards.engine import LocalShardEngine
from altogether_rt.jobs.shards.run import caption_shards, plan_run
from tests.fake_captioner import FakeCaptioner
from tests.jobs.shards.stand_ins import job_for, shard_of
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
shards, job = [shard_of(Path("in/00000.tar"))], job_for("out")
plan = plan_run(shards, job)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
with LocalShardEngine(lambda: nullcontext(LocalExecutor(FakeCaptioner()))) as engine:
    caption_shards(plan, job, engine)
"""


@pytest.mark.usefixtures("uncovered")
def test_a_full_disk_then_a_rerun(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts fit and the Parquet file does not: an error, nothing half-written, no row again."""
    monkeypatch.chdir(tmp_path)
    shards = make_tars(Path("in"), 1, 60)
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(root)}
    failed = subprocess.run(
        [sys.executable, "-c", LIMITED, "7168"], env=environment, capture_output=True, text=True
    )
    assert failed.returncode == 1 and "File too large" in failed.stderr
    assert not Path("out/00000.parquet").exists() and not list(Path("out").rglob("*.tmp"))
    again = FakeCaptioner()
    for out, captioner in (("out", again), ("whole", FakeCaptioner())):
        job = job_for(out)
        with LocalShardEngine(lambda used=captioner: nullcontext(LocalExecutor(used))) as engine:  # type: ignore[misc]
            caption_shards(plan_run(shards, job), job, engine)
    assert _files("out") == _files("whole") and again.requests == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
