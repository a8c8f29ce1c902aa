"""What captioning with PyTorch on a GPU would run on this machine; neither is imported."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from pathlib import Path

from altogether_rt.machine.device import driver_problem, has_module, installed_version
from altogether_rt.machine.gpu import GpuReport

__all__ = ["MIN_KERNEL_SM", "kernels_problem", "torch_problem"]

#: The oldest compute capability that the kernels are built for in tests.
MIN_KERNEL_SM = 80


def torch_problem(gpu: GpuReport) -> str | None:
    """Why the installed PyTorch cannot use a GPU, as far as its files say; None if it can."""
    version = installed_version("torch")
    if version is None:
        return "torch is not installed"
    if version.endswith("+cpu"):
        return (
            f"PyTorch {version} is a build for processors: run pip install --force-reinstall torch "
            "with a build for CUDA (https://pytorch.org/get-started)"
        )
    major = _cuda_major()
    problem = None if major is None else driver_problem(gpu, major)
    if problem is None:
        return None
    return (
        f"PyTorch {version} is built for CUDA {major}: {problem}, or install a build for an older "
        "CUDA (https://pytorch.org/get-started)"
    )


def _cuda_major() -> int | None:
    """The CUDA that the installed PyTorch is built for; None if its files do not say."""
    spec = importlib.util.find_spec("torch") if has_module("torch") else None
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text("utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=]*= *['\"](\d+)\.", text, re.MULTILINE)
    return None if found is None else int(found[1])


def kernels_problem(sm: int) -> str | None:
    """Why Triton's kernels cannot run on a GPU of compute capability `sm`; None if they can.

    Plain PyTorch runs there all the same.
    """
    if sm < MIN_KERNEL_SM:
        return (
            f"Triton's kernels need compute capability 8.0, and this GPU has {sm // 10}.{sm % 10}"
        )
    if not has_module("triton"):
        return "Triton is not installed (PyTorch's builds for CUDA on Linux bring it)"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler to start its kernels: install gcc or clang"
    return None
