"""onnxruntime-gpu itself, which installs and imports where there is no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.conftest import BundleOf

#: Where `install.sh` puts the wheel: beside the onnxruntime of the environment, not over it.
WHEEL = Path(__file__).parent / ".onnxruntime-gpu"

OPEN = """
import sys
from pathlib import Path

import onnxruntime
from altogether_rt.errors import AltogetherError
from altogether_rt.machine.device import check_onnxruntime_gpu, check_providers
from altogether_rt.runtime.cuda import onnx

check_onnxruntime_gpu()
check_providers(onnxruntime.get_available_providers(), "CUDAExecutionProvider")
for name in ("encoder", "mapper", "decoder", "decode", "prompts"):
    path = Path(sys.argv[1]) / f"{name}.onnx"
    decoder = name not in ("encoder", "mapper")
    try:
        onnx._open_session(
            onnxruntime, path, index=0, stream=0, tensorrt=False, decoder=decoder
        )
    except AltogetherError as error:
        print(error)
"""


def on_wheel(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(WHEEL), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(autouse=True)
def wheel() -> None:
    if not (WHEEL / "onnxruntime").is_dir():
        pytest.skip("onnxruntime-gpu is not installed: run tests/runtime/cuda/install.sh")


def test_a_bundle_opens_as_far_as_the_missing_libraries_let_it(bundle_of: BundleOf) -> None:
    done = on_wheel(OPEN, bundle_of("opt", "cuda-fp16").path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    for line in lines:
        assert line.startswith("onnxruntime could not start CUDAExecutionProvider: lib")
        assert "is missing. Run pip install" in line or "no NVIDIA driver" in line
    assert done.stderr == ""  # no line of onnxruntime's own log


@pytest.mark.parametrize("target", ["cuda-fp16", "cuda-int8"])
@pytest.mark.parametrize("family", ["opt", "llama"])
def test_its_version_reads_the_graphs(bundle_of: BundleOf, family: str, target: str) -> None:
    """On its CPU kernels where it has them; a node that it does not know is an error there too."""
    code = """
import sys
from pathlib import Path

import onnxruntime

onnxruntime.set_default_logger_severity(4)
for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
    try:
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:
        print(type(error).__name__, path.name)
"""
    done = on_wheel(code, bundle_of(family, target).path)
    # NotImplemented: an operator that this version knows, without a kernel for the CPU.
    kinds = {line.split()[0] for line in done.stdout.splitlines()}
    assert kinds <= {"NotImplemented"}, done.stdout
