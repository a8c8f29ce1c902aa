"""Stands in for the NVIDIA driver's library: functions that fill in what they are given."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from altogether_rt.machine import gpu
from altogether_rt.machine.gpu import find_gpus


@dataclass
class FakeDriver:
    """`libcuda.so.1` of a machine with GPUs of these compute capabilities."""

    sms: tuple[int, ...] = (89,)
    errors: dict[str, int] = field(default_factory=dict)  # function -> code it returns
    cuda_version: int = 13010

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def function(*arguments: Any) -> int:
            if name in self.errors:
                return self.errors[name]
            self._answer(name, arguments)
            return 0

        return function

    def _answer(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "cuInit":
            assert arguments == (0,)
            return
        if name == "cuDeviceGetName":
            buffer, size, device = arguments
            buffer.value = f"Fake {device.value}".encode()[: size - 1]
            return
        target = arguments[0]._obj  # what ctypes.byref was given
        if name == "cuDriverGetVersion":
            target.value = self.cuda_version
        elif name == "cuDeviceGetCount":
            target.value = len(self.sms)
        elif name == "cuDeviceGet":
            target.value = arguments[1]
        elif name == "cuDeviceTotalMem_v2":
            assert isinstance(target, ctypes.c_size_t)
            target.value = 24 << 30
        elif name == "cuDeviceGetAttribute":
            major, minor = divmod(self.sms[arguments[2].value], 10)
            target.value = {75: major, 76: minor}[arguments[1]]
        else:
            raise AssertionError(f"{name} is not part of what is used")


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, *sms: int, cuda_version: int = 13010) -> None:
    """A machine with GPUs of these compute capabilities; none: one without a driver."""

    def load(name: str) -> FakeDriver:
        assert name == gpu.DRIVER_LIBRARY
        if not sms:
            raise OSError(f"{name}: cannot open shared object file")
        return FakeDriver(sms, cuda_version=cuda_version)

    found = find_gpus(load)
    monkeypatch.setattr(gpu, "find_gpus", lambda: found)
