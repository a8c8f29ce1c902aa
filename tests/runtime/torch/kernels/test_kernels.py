"""Starts the tests that need Triton, each file in a process that has it.

The interpreter and the compiler exclude each other: `TRITON_INTERPRET` counts when a kernel is
defined.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Where `install.sh` puts Triton.
TRITON = Path(__file__).parent / ".triton"


def run_with_triton(*files: str, tmp_path: Path, interpret: bool) -> None:
    """Run the tests of files of this folder. Skips where Triton is not installed."""
    if not (TRITON / "triton").is_dir():
        pytest.skip("Triton is not installed: run tests/runtime/torch/kernels/install.sh")
    path = os.pathsep.join([str(TRITON), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
         "-p", "no:randomly", "--tb=short", *(Path(__file__).parent / file for file in files)],
        env={**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": str(int(interpret)),
             "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.slow
def test_kernels_compute_what_the_plain_step_does(tmp_path: Path) -> None:
    files = ("interpreted.py", "interpreted_rows.py", "interpreted_captions.py")
    run_with_triton(*files, tmp_path=tmp_path, interpret=True)


@pytest.mark.slow
def test_kernels_build_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    run_with_triton("ahead_of_time.py", tmp_path=tmp_path, interpret=False)
