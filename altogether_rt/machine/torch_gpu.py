"""What captioning with PyTorch on a GPU would run on this machine; neither is imported."""

from __future__ import annotations

import os
import shutil

from altogether_rt.machine.device import has_module, installed_version

__all__ = ["MIN_KERNEL_SM", "kernels_problem", "torch_problem"]

#: The oldest compute capability that the kernels are built for in tests.
MIN_KERNEL_SM = 80


def torch_problem() -> str | None:
    """Why the installed PyTorch cannot use a GPU, as far as its version says; None if it can."""
    version = installed_version("torch")
    if version is None:
        return "torch is not installed"
    if version.endswith("+cpu"):
        return (
            f"PyTorch {version} is a build for processors: run pip install --force-reinstall torch "
            "with a build for CUDA (https://pytorch.org/get-started)"
        )
    return None


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
