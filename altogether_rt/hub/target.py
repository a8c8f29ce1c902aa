"""What a captioner given by name is made into for a device, and why: no backend is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from altogether_rt.machine import gpu
from altogether_rt.machine.device import Device, parse_device
from altogether_rt.machine.gpu import GpuReport
from altogether_rt.machine.report import onnxruntime_on_gpu, torch_on_gpu
from altogether_rt.machine.torch_gpu import kernels_problem

__all__ = ["CHECKPOINT", "TARGETS", "Target", "choose_target"]

#: Instead of a bundle's target: the imported checkpoint itself, which PyTorch runs.
CHECKPOINT: Final = "torch"
#: Targets of the bundles that are made of captioners by name, by the device that they are for.
TARGETS: Final = {"cpu": "cpu-int8", "cuda": "cuda-fp16", "tensorrt": "tensorrt-fp16"}


@dataclass(frozen=True)
class Target:
    """The fastest form of a captioner for a device of this machine."""

    name: str  # CHECKPOINT, or one of TARGETS
    why: str  # a clause
    problem: str | None = None  # why it cannot run here, a clause; None if it can, as far as known

    def __str__(self) -> str:
        """What a name stands for, and why, as a clause."""
        if self.name == CHECKPOINT:
            return f"a checkpoint, which PyTorch runs on the GPU: {self.why}"
        return f"a bundle for {self.name}: {self.why}"


def choose_target(device: str = "auto") -> Target:
    """The target for `device`, as `--device` names it; `auto` is a GPU if something can use it.

    On a GPU a checkpoint with Triton's kernels is the fastest, then a bundle with ONNX Runtime,
    then a checkpoint in plain PyTorch.
    """
    wanted = parse_device(device)
    if wanted.kind in ("cpu", "tensorrt"):
        return Target(TARGETS[wanted.kind], f"for --device {wanted.kind}")
    report = gpu.find_gpus()
    on_gpu = _on_gpu(wanted, report)
    if wanted.kind == "auto" and on_gpu.problem is not None:
        # Of most machines that is all there is to say; doctor says what a GPU would need.
        why = on_gpu.problem if report.gpus else "no NVIDIA GPU can be used here"
        return Target(TARGETS["cpu"], why)
    return on_gpu


def _on_gpu(wanted: Device, report: GpuReport) -> Target:
    if report.problem is not None:
        return Target(TARGETS["cuda"], f"for --device {wanted}", report.problem)
    with_torch, with_onnxruntime = torch_on_gpu(report), onnxruntime_on_gpu(report)
    index = min(wanted.index or 0, len(report.gpus) - 1)
    slow = kernels_problem(report.gpus[index].sm)
    if with_torch.ready and slow is None:
        return Target(CHECKPOINT, "the fastest here, with kernels in Triton")
    missing = "; ".join(with_torch.missing)
    if with_onnxruntime.ready:
        faster = f"a checkpoint with PyTorch would be faster: {missing or slow}"
        return Target(TARGETS["cuda"], f"with ONNX Runtime; {faster}")
    if with_torch.ready:
        return Target(CHECKPOINT, f"without kernels in Triton, slower: {slow}")
    advice = f": run {with_torch.advice}" if with_torch.advice else ""
    problem = f"{missing}{advice}, or see altogether-rt doctor for ONNX Runtime"
    return Target(TARGETS["cuda"], f"for --device {wanted}", problem)
