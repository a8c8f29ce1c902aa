"""`--device`, and whether this machine has what a device needs.

Everything here is quick and imports no backend, so that a missing driver or package is reported
before weights are read. What shows only when a backend loads, such as a missing shared library, is
reported by the module that loads it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from altogether_rt.errors import AltogetherError, MissingDependencyError
from altogether_rt.machine import gpu

__all__ = [
    "DEVICE_NAMES",
    "TENSORRT_MODULES",
    "Device",
    "Dtype",
    "KVCacheType",
    "check_cuda_python",
    "check_driver",
    "check_onnxruntime_gpu",
    "check_providers",
    "check_tensorrt",
    "driver_problem",
    "find_gpu",
    "has_module",
    "installed_version",
    "onnxruntime_providers",
    "parse_device",
]

#: `--dtype`: what a checkpoint is computed in. float8: products of encoder, mapper and prompts;
#: float8-all: of decode steps too.
Dtype = Literal["auto", "float32", "float16", "bfloat16", "float8", "float8-all"]
#: `--kv-cache`: how a checkpoint's cache keeps keys and values; auto: in the type of the step.
KVCacheType = Literal["auto", "int8", "float8"]
#: CUDA version that the packages of the extras `gpu` and `tensorrt` are built for.
CUDA_MAJOR = 13
#: Modules that provide TensorRT, in order of preference.
TENSORRT_MODULES: tuple[Literal["tensorrt_rtx", "tensorrt"], ...] = ("tensorrt_rtx", "tensorrt")
DEVICE_NAMES = "auto, cpu, cuda, cuda:N or tensorrt"


@dataclass(frozen=True)
class Device:
    """A device as `--device` names it."""

    kind: Literal["auto", "cpu", "cuda", "tensorrt"]
    index: int | None = None  # of the GPU; None: the first

    def __str__(self) -> str:
        return self.kind if self.index is None else f"{self.kind}:{self.index}"

    @property
    def on_gpu(self) -> bool:
        return self.kind in ("cuda", "tensorrt")


def parse_device(text: str) -> Device:
    """Parse the value of `--device`. Raises AltogetherError for anything but DEVICE_NAMES."""
    found = re.fullmatch(r"(auto|cpu|tensorrt|cuda)|cuda:(\d{1,3})", text)
    if found is None:
        raise AltogetherError(f"there is no device {text!r}: choose {DEVICE_NAMES}.")
    if found[2] is not None:
        return Device("cuda", int(found[2]))
    kinds: dict[str, Literal["auto", "cpu", "cuda", "tensorrt"]] = {
        "auto": "auto",
        "cpu": "cpu",
        "cuda": "cuda",
        "tensorrt": "tensorrt",
    }
    return Device(kinds[found[1]])


def find_gpu(device: Device, instead: str = "use --device cpu") -> gpu.Gpu:
    """The GPU that `device` means. Raises AltogetherError if this machine does not have it.

    instead: alternative for the message if there is no GPU.
    """
    report = gpu.find_gpus()
    if report.problem is not None:
        raise AltogetherError(f"{device} cannot be used: {report.problem}, or {instead}.")
    index = device.index or 0
    if index >= len(report.gpus):
        last = len(report.gpus) - 1
        have = "cuda:0 only" if last == 0 else f"cuda:0 to cuda:{last}"
        raise AltogetherError(f"there is no {device}: this machine has {have}.")
    return report.gpus[index]


def check_driver() -> None:
    """Raise AltogetherError if the driver is too old for the CUDA that packages are built for."""
    problem = driver_problem(gpu.find_gpus())
    if problem is not None:
        raise AltogetherError(f"{problem}.")


def driver_problem(report: gpu.GpuReport, major: int = CUDA_MAJOR) -> str | None:
    """Why the driver cannot run what is built for CUDA `major`; None if it can, or is not known."""
    supported = report.cuda_version
    if supported is None or int(supported.partition(".")[0]) >= major:
        return None
    return (
        f"the NVIDIA driver supports CUDA up to {supported}, but CUDA {major} is needed: "
        "update the driver"
    )


def check_onnxruntime_gpu() -> None:
    """Raise AltogetherError unless the onnxruntime that is found brings its CUDA kernels.

    The files decide, not the distributions' names: a build of one's own may have any name.
    """
    if not has_module("onnxruntime"):
        raise MissingDependencyError("onnxruntime-gpu", "gpu", "captioning on CUDA")
    if "cuda" not in onnxruntime_providers():
        raise _without_provider("CUDAExecutionProvider")


def check_providers(available: Sequence[str], wanted: str) -> None:
    """Raise AltogetherError unless `wanted` is among the providers that onnxruntime reports.

    The kernels' library may be there and yet not be used: where two builds are installed, the
    module of one lies over that of the other.
    """
    if wanted not in available:
        raise _without_provider(wanted)


def onnxruntime_providers() -> tuple[str, ...]:
    """Execution providers of the installed onnxruntime, by their libraries; it always has `cpu`."""
    spec = importlib.util.find_spec("onnxruntime") if has_module("onnxruntime") else None
    if spec is None or spec.origin is None:
        return ()
    libraries = Path(spec.origin).parent.glob("capi/*onnxruntime_providers_*")
    found = {re.sub(r"^.*providers_(\w+)\..*$", r"\1", path.name) for path in libraries}
    return ("cpu", *sorted(found - {"shared"}))


def _without_provider(provider: str) -> AltogetherError:
    cpu, cuda = installed_version("onnxruntime"), installed_version("onnxruntime-gpu")
    if cpu is not None and cuda is not None:
        return AltogetherError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: run "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'altogether-rt[gpu]'."
        )
    version = f"onnxruntime {cpu}" if cpu else "onnxruntime"
    return AltogetherError(
        f"the installed {version} has no {provider}: run "
        "pip uninstall -y onnxruntime, then pip install 'altogether-rt[gpu]'."
    )


def check_tensorrt() -> None:
    """Raise MissingDependencyError if TensorRT or cuda-python is not installed."""
    if not any(has_module(name) for name in TENSORRT_MODULES):
        raise MissingDependencyError(TENSORRT_MODULES[0], "tensorrt", "captioning with TensorRT")
    check_cuda_python("captioning with TensorRT", "tensorrt")


def check_cuda_python(purpose: str, extra: str) -> None:
    """Raise MissingDependencyError if cuda-python is not installed."""
    if not has_module("cuda.bindings"):
        raise MissingDependencyError("cuda-python", extra, purpose)


def has_module(name: str) -> bool:
    """Whether a module can be found. It is not imported, but parents of a dotted name are."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # no parent package; a module without a spec
        return False


def installed_version(distribution: str) -> str | None:
    """Version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
