"""The stand-in finds the mistakes that it is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from altogether_rt.runtime.torch.device.arrays import ArrayContext, TorchArray
from tests.runtime.torch.device.fake_device import DeviceMisuse, FakeDevice


def test_reading_before_the_event_is_found() -> None:
    device = FakeDevice()
    first, second = device.stream(), device.stream()
    with device:
        with device.use(first):
            made = device.upload(np.ones(4)) * 2
            event = device.record(first)
        with device.use(second), pytest.raises(DeviceMisuse, match="reads what 1 may not have"):
            made.sum()
        device.wait(second, event)
        with device.use(second), pytest.raises(DeviceMisuse, match="without being shared"):
            made.sum()
        device.share(made, second)
        with device.use(second):
            made.sum()


def test_overwriting_what_is_still_read_is_found() -> None:
    device = FakeDevice()
    first, second = device.stream(), device.stream()
    with device:
        with device.use(first):
            made = device.upload(np.ones(4))
        device.wait(second, device.record(first))
        device.share(made, second)
        with device.use(second):
            made.sum()
            done = device.record(second)
        with device.use(first), pytest.raises(DeviceMisuse, match="overwrites what 2 may still"):
            made.zero_()
        device.wait(first, done)
        with device.use(first):
            made.zero_()


def test_the_host_sees_what_it_has_waited_for() -> None:
    device = FakeDevice()
    stream, other = device.stream(), device.stream()
    with device:
        with device.use(stream):
            made = device.upload(np.arange(3.0)) + 1
            copied = device.download(made, stream)
        with pytest.raises(DeviceMisuse):
            made.sum()
        assert copied.array().tolist() == [1, 2, 3]
        made.sum()  # the host has waited, and what it then gives a stream comes later
        device.share(made, other)
        with device.use(other):
            made.sum()
        with pytest.raises(DeviceMisuse, match="not in use"):
            device.download(made, stream)


def test_copies_within_a_capture_are_found() -> None:
    device = FakeDevice()
    stream = device.stream()
    calls = []

    def run() -> None:
        calls.append(device.uploads)
        if len(calls) > 1:
            device.upload(np.ones(1))

    with device, device.use(stream), pytest.raises(DeviceMisuse, match="is captured"):
        device.capture(run, stream)
    with device, pytest.raises(DeviceMisuse, match="not in use"):
        device.capture(run, stream)


def test_arrays_wait_for_what_they_are_made_of() -> None:
    device = FakeDevice()
    context = ArrayContext(device, device.stream())
    first, second = device.stream(), device.stream()
    with device:
        arrays = []
        for stream, start in ((first, 0), (second, 100)):
            with device.use(stream):
                tensor = torch.arange(start, start + 6.0).view(3, 2) + 0
                arrays.append(TorchArray.computed(context, tensor, stream))
        left, right = arrays
        assert left.shape == (3, 2)
        assert [row.shape for row in left] == [(2,), (2,), (2,)]
        mixed = left.join([left, right, np.full((1, 2), 7, np.float32), left])
        assert (mixed.shape, mixed.ndim, len(mixed)) == ((10, 2), 2, 10)
        with device.use(first):
            assert mixed.on(first).shape == (10, 2)
        assert np.asarray(mixed)[[0, 3, 6, 7], 0].tolist() == [0, 100, 7, 0]
        assert np.asarray(mixed[4]).tolist() == [102, 103]
        assert np.asarray(mixed[6]).tolist() == [7, 7]
        rows = left.stack([left[2], right[0], np.array([5, 6], np.float32)])
        assert np.asarray(rows).tolist() == [[4, 5], [100, 101], [5, 6]]
        with pytest.raises(IndexError):
            left[3]


def test_neighbouring_rows_are_not_copied() -> None:
    device = FakeDevice()
    context = ArrayContext(device, device.stream())
    stream = device.stream()
    with device, device.use(stream):
        tensor = torch.arange(8.0).view(4, 2) + 0
        array = TorchArray.computed(context, tensor, stream)
        joined = array.stack([array[1], array[2], array[3]]).on(stream)
        assert joined.data_ptr() == tensor[1:].data_ptr()
        assert joined.tolist() == [[2, 3], [4, 5], [6, 7]]
        assert array.stack([array[2], array[1]]).on(stream).tolist() == [[4, 5], [2, 3]]
