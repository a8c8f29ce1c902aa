"""NVIDIA GPUs of this machine, as the driver reports them: quick, and without any package."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["DRIVER_LIBRARY", "Gpu", "GpuReport", "find_gpus"]

DRIVER_LIBRARY = "libcuda.so.1"
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NAME_BYTES = 128


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    index: int  # N in `cuda:N`
    name: str
    sm: int  # compute capability, 89 for 8.9
    memory_bytes: int


@dataclass(frozen=True)
class GpuReport:
    """What the driver reported; problem: why no GPU can be used, None if one can."""

    gpus: tuple[Gpu, ...] = ()
    cuda_version: str | None = None  # newest CUDA that the driver supports
    problem: str | None = None


class _DriverError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def find_gpus(load_library: Callable[[str], Any] = ctypes.CDLL) -> GpuReport:
    """Query the NVIDIA driver. Never raises: problems are stated in the report."""
    try:
        driver = load_library(DRIVER_LIBRARY)
    except OSError:
        return GpuReport(
            problem=f"there is no NVIDIA driver ({DRIVER_LIBRARY} cannot be loaded): "
            "install it (a container must be started with --gpus all)"
        )
    version = None
    try:
        version = _cuda_version(driver)
        _call(driver, "cuInit", 0)
        count = ctypes.c_int()
        _call(driver, "cuDeviceGetCount", ctypes.byref(count))
        gpus = tuple(_describe(driver, index) for index in range(count.value))
    except _DriverError as error:
        if error.code == _NO_DEVICE:
            return GpuReport((), version, _NO_GPU)
        return GpuReport(
            (), version, f"the NVIDIA driver does not work ({error}): check nvidia-smi"
        )
    return GpuReport(gpus, version, None if gpus else _NO_GPU)


_NO_GPU = (
    "the NVIDIA driver finds no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES "
    "(a container must be started with --gpus all)"
)


def _cuda_version(driver: Any) -> str:
    number = ctypes.c_int()
    _call(driver, "cuDriverGetVersion", ctypes.byref(number))  # 13010 for 13.1
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _describe(driver: Any, index: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    memory = ctypes.c_size_t()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _call(driver, "cuDeviceGet", ctypes.byref(device), index)
    _call(driver, "cuDeviceGetName", name, _NAME_BYTES, device)
    _call(driver, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    for value, attribute in ((major, _MAJOR), (minor, _MINOR)):
        _call(driver, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
    sm = 10 * major.value + minor.value
    return Gpu(index, name.value.decode("utf-8", "replace"), sm, memory.value)


def _call(driver: Any, function: str, *arguments: Any) -> None:
    code = int(getattr(driver, function)(*arguments))
    if code:
        raise _DriverError(code, f"{function} gave error {code}")
