"""What the driver says, and what is said of it."""

from __future__ import annotations

import pytest

from altogether_rt.machine.gpu import Gpu, find_gpus
from tests.machine.fake_driver import FakeDriver

pytestmark = pytest.mark.lean


def test_gpus_are_described() -> None:
    report = find_gpus(lambda name: FakeDriver((90, 121)))
    assert report.problem is None
    assert report.cuda_version == "13.1"
    assert report.gpus == (Gpu(0, "Fake 0", 90, 24 << 30), Gpu(1, "Fake 1", 121, 24 << 30))


def test_without_a_driver() -> None:
    def load(name: str) -> FakeDriver:
        raise OSError(f"{name}: cannot open shared object file")

    report = find_gpus(load)
    assert report.gpus == ()
    assert report.cuda_version is None
    assert report.problem is not None
    assert "libcuda.so.1 cannot be loaded" in report.problem


@pytest.mark.parametrize(
    ("driver", "sentence"),
    [
        (FakeDriver(()), "the NVIDIA driver finds no GPU"),
        (FakeDriver(errors={"cuInit": 100}), "the NVIDIA driver finds no GPU"),
        (FakeDriver(errors={"cuInit": 803}), "cuInit gave error 803): check nvidia-smi"),
        (FakeDriver(errors={"cuDeviceGetAttribute": 1}), "cuDeviceGetAttribute gave error 1"),
    ],
)
def test_a_driver_that_gives_no_gpu(driver: FakeDriver, sentence: str) -> None:
    report = find_gpus(lambda name: driver)
    assert report.gpus == ()
    assert report.cuda_version == "13.1"
    assert report.problem is not None
    assert sentence in report.problem


def test_the_real_driver_is_asked() -> None:
    """With or without a GPU, there is an answer."""
    report = find_gpus()
    assert (report.problem is None) == bool(report.gpus)
