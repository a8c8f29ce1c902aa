"""On Ray: a worker and a machine that die change no byte; Ctrl-C leaves what can be gone on from.

Ray takes some ten seconds of processor time to start, so there are two runs here and no more.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")

from altogether_rt.errors import AltogetherError, MissingDependencyError
from altogether_rt.jobs.executor import LocalExecutor
from altogether_rt.jobs.shards.cluster import ray_cluster
from altogether_rt.jobs.shards.cluster.ray_cluster import _session_folder, connect
from altogether_rt.jobs.shards.engine import LocalShardEngine
from altogether_rt.jobs.shards.run import caption_shards, plan_run
from altogether_rt.jobs.shards.status import read_status
from altogether_rt.machine.device import has_module
from tests.fake_captioner import FakeCaptioner
from tests.jobs.shards.stand_ins import job_for, shard_of
from tests.shards_fixtures import object_store, s3_server, write_webdataset

__all__ = ["object_store", "s3_server"]

needs_ray = pytest.mark.skipif(not has_module("ray"), reason="needs ray")


@pytest.fixture
def environment(root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.parquet")}


@needs_ray
def test_a_worker_and_a_node_killed_in_mid_run(
    tmp_path: Path, root: Path, environment: dict[str, str]
) -> None:
    module, out = "tests.jobs.shards.cluster.two_nodes", tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-m", module, str(tmp_path), str(out)],
        cwd=root, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)  # nothing else is printed
    assert found["killed"] == ["worker", "node"] and len(found["restarts"]) >= 2, found
    assert found["shards"] == {"done": 6} and found["rows"] == 240
    whole = job_for(tmp_path / "whole")
    shards = [shard_of(path) for path in sorted((tmp_path / "in").glob("*.tar"))]
    with LocalShardEngine(lambda: nullcontext(LocalExecutor(FakeCaptioner()))) as engine:
        caption_shards(plan_run(shards, whole), whole, engine)
    assert files_of(out) == files_of(tmp_path / "whole")


PROGRAM = """
import sys
from altogether_rt.cli.main import run
from altogether_rt.jobs import open as open_module
from altogether_rt.jobs.shards import open as shards_module
from tests.fake_captioner import open_slowly
open_module.open_captioner = open_slowly
shards_module.open_on_node = open_slowly
if __name__ == "__main__":
    sys.argv[0] = "altogether-rt"
    run()
"""


@needs_ray
def test_ctrl_c_on_an_object_store(
    tmp_path: Path,
    environment: dict[str, str],
    object_store: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the whole group, as a terminal sends it. Nothing of Ray's is printed, nor left."""
    import fsspec

    monkeypatch.chdir(tmp_path)
    write_webdataset(Path("in"), 6, 40)
    fsspec.filesystem("s3").put("in/", f"{object_store}/in", recursive=True)
    Path("program.py").write_text(PROGRAM)
    out = f"{object_store}/out"
    command = [sys.executable, "program.py", "caption", f"{object_store}/in/*.tar", "--out", out]
    environment |= {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
    environment["TMPDIR"] = temporary = tempfile.mkdtemp(prefix="t")  # Ray needs a short path
    with subprocess.Popen(
        [*command, "--engine", "ray", "--workers", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    ) as process:  # fmt: skip
        fs = fsspec.filesystem("s3")
        deadline = time.monotonic() + 120
        while not fs.glob(f"{out}/*_stats.json") and time.monotonic() < deadline:
            time.sleep(0.1)
            fs.invalidate_cache()
        os.killpg(process.pid, signal.SIGINT)
        shown, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and shown == "", shown + errors
    told = "Interrupted: the captions so far are kept; give the same command to go on."
    lines = [line for line in errors.splitlines() if "images" not in line]
    assert lines == [f"altogether-rt: {told}"]
    Path(temporary).rmdir()  # which must be empty
    status = read_status(out)
    assert 0 < status.shards["done"] < 6 and status.shards["running"] == 0
    del environment["TMPDIR"]
    rest = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert rest.returncode == 0 and "240 of 240 images captioned" in rest.stdout, rest.stderr
    assert read_status(out).shards == {"done": 6}


@pytest.mark.lean
def test_folders_that_killed_runs_left_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(ray_cluster, "_MAX_FOLDER_BYTES", 1000)
    left = tmp_path / "altogether-ray-left"
    (left / "session").mkdir(parents=True)
    (left / "lock").touch()
    with _session_folder() as first, _session_folder() as second:
        assert not left.exists()
        assert first.is_dir() and second.is_dir()  # the first is in use
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(ray_cluster, "_MAX_FOLDER_BYTES", 40)
    with _session_folder() as folder:
        assert folder.parent == Path("/tmp") and len(str(folder)) <= 40


@pytest.mark.lean
@pytest.mark.parametrize("name", ["long" * 20, "tü"])
def test_a_folder_of_temporary_files_that_ray_cannot_use(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=name, dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    try:
        with _session_folder() as folder:
            assert folder.parent == Path("/tmp")
    finally:
        temporary.rmdir()


@pytest.mark.lean
def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"altogether-rt\[ray\]"), connect(num_cpus=1):
        pass


@needs_ray
def test_a_cluster_that_does_not_answer() -> None:
    """Before Ray tries, which would end this process in the end."""
    message = r"no Ray cluster answers at 127\.0\.0\.1:9 .*--ray-address or RAY_ADDRESS"
    with pytest.raises(AltogetherError, match=message), connect("127.0.0.1:9", num_cpus=1):
        pass
