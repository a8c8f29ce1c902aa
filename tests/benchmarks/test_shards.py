"""The benchmarks of shards count what they say."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")

import pyarrow
from pyarrow import parquet

# By their full names: there are other folders called `shards`, and benchmarks are not type-checked.
damage: Any = import_module("benchmarks.shards.damage")
dataset: Any = import_module("benchmarks.shards.dataset")
outcome: Any = import_module("benchmarks.shards.outcome")


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    (path,) = dataset.make_shards(tmp_path / "in", 1, 10, 8)
    assert isinstance(path, Path)
    return path


@pytest.mark.parametrize(("fault", "left"), list(zip(damage.FAULTS, (6, 6, 9, 9), strict=True)))
def test_a_fault_leaves_the_samples_that_it_says(
    shard: Path, tmp_path: Path, fault: str, left: int
) -> None:
    keys = damage.make_faulty(shard, tmp_path / "out", fault)
    assert len(keys) == left and "000000006" not in keys
    assert (tmp_path / "out" / shard.name).read_bytes() != shard.read_bytes()
    with tarfile.open(shard) as tar:
        assert len(tar.getnames()) == 30


def test_rows_are_counted_by_their_keys(tmp_path: Path) -> None:
    rows = {"key": ["a", "b", "b", "c"], "caption": ["x", "y", "y", None]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "0.parquet")
    (tmp_path / "1.parquet").write_bytes(b"half a file")
    files = sorted(tmp_path.glob("*.parquet"))
    assert outcome.count_rows(files, set("abcd")) == (2, 1)
    (tmp_path / "log").write_text("a\nb\na\na\n")
    assert outcome.made_again(tmp_path / "log") == 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_is_left_behind_counts(root: Path) -> None:
    spin = "import time\nwhile time.process_time() < 0.3: pass"
    program = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {spin!r}])"
    measured = root / "benchmarks" / "shards" / "measured.py"
    done = subprocess.run(
        [sys.executable, measured, "60", sys.executable, "-c", program],
        capture_output=True,
        check=True,
        timeout=90,
    )
    figures = json.loads(done.stdout)
    assert figures["code"] == 0 and figures["cpu_s"] >= 0.3
