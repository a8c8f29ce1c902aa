"""The stand-in for CUDA finds the mistakes it is there to find."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from altogether_rt.errors import AltogetherError
from tests.runtime.cuda.fake_cuda import CudaMisuse, FakeCuda

pytestmark = pytest.mark.lean


def test_bytes_go_there_and_back() -> None:
    cuda = FakeCuda()
    stream, device = cuda.create_stream(), cuda.malloc(64)
    there, back = cuda.host_alloc(64), cuda.host_alloc(64)
    there.array[:] = np.arange(64)
    cuda.upload(device, there, 0, 64, stream)
    cuda.copy_columns(device + 4, device, pitch=16, width=4, rows=4, stream=stream)
    cuda.download(back, 0, device, 64, stream)
    cuda.synchronize(stream)
    wanted = np.arange(64).reshape(4, 16)
    wanted[:, 4:8] = wanted[:, :4]
    assert (back.array.reshape(4, 16) == wanted).all()
    cuda.clear(device, 64, stream)
    cuda.download(back, 0, device, 64, stream)
    cuda.synchronize(stream)
    assert not back.array.any()
    cuda.free(device)
    cuda.host_free(there)
    cuda.host_free(back)
    cuda.destroy_stream(stream)
    cuda.finish()


def misuse_double_free(cuda: FakeCuda) -> None:
    address = cuda.malloc(8)
    cuda.free(address)
    cuda.free(address)


def misuse_free_of_nothing(cuda: FakeCuda) -> None:
    cuda.free(cuda.malloc(8) + 1)


def misuse_use_after_free(cuda: FakeCuda) -> None:
    stream, address, buffer = cuda.create_stream(), cuda.malloc(8), cuda.host_alloc(8)
    cuda.free(address)
    cuda.upload(address, buffer, 0, 8, stream)


def misuse_free_while_queued(cuda: FakeCuda) -> None:
    stream, address, buffer = cuda.create_stream(), cuda.malloc(8), cuda.host_alloc(8)
    cuda.upload(address, buffer, 0, 8, stream)
    cuda.free(address)


def misuse_device_bounds(cuda: FakeCuda) -> None:
    stream, address, buffer = cuda.create_stream(), cuda.malloc(8), cuda.host_alloc(16)
    cuda.upload(address, buffer, 0, 9, stream)


def misuse_host_bounds(cuda: FakeCuda) -> None:
    stream, address, buffer = cuda.create_stream(), cuda.malloc(16), cuda.host_alloc(8)
    cuda.download(buffer, 1, address, 8, stream)


def misuse_columns_bounds(cuda: FakeCuda) -> None:
    stream, address = cuda.create_stream(), cuda.malloc(64)
    cuda.copy_columns(address + 4, address, pitch=16, width=16, rows=4, stream=stream)


def misuse_read_without_waiting(cuda: FakeCuda) -> None:
    stream, address, buffer = cuda.create_stream(), cuda.malloc(8), cuda.host_alloc(8)
    cuda.download(buffer, 0, address, 8, stream)
    _ = buffer.array


def misuse_write_while_copied(cuda: FakeCuda) -> None:
    stream, address, buffer = cuda.create_stream(), cuda.malloc(8), cuda.host_alloc(8)
    cuda.upload(address, buffer, 0, 8, stream)
    buffer.array[:] = 1


def misuse_host_freed_while_copied(cuda: FakeCuda) -> None:
    stream, address, buffer = cuda.create_stream(), cuda.malloc(8), cuda.host_alloc(8)
    cuda.upload(address, buffer, 0, 8, stream)
    cuda.host_free(buffer)


def misuse_host_freed_twice(cuda: FakeCuda) -> None:
    buffer = cuda.host_alloc(8)
    cuda.host_free(buffer)
    cuda.host_free(buffer)


def misuse_host_after_free(cuda: FakeCuda) -> None:
    buffer = cuda.host_alloc(8)
    cuda.host_free(buffer)
    _ = buffer.array


def misuse_wait_for_nothing(cuda: FakeCuda) -> None:
    cuda.synchronize_event(cuda.create_event())


def misuse_allocation_in_capture(cuda: FakeCuda) -> None:
    cuda.begin_capture(cuda.create_stream())
    cuda.malloc(8)


def misuse_waiting_in_capture(cuda: FakeCuda) -> None:
    stream = cuda.create_stream()
    cuda.begin_capture(stream)
    cuda.synchronize(stream)


def misuse_empty_capture(cuda: FakeCuda) -> None:
    stream = cuda.create_stream()
    cuda.begin_capture(stream)
    cuda.end_capture(stream)


def misuse_unknown_stream(cuda: FakeCuda) -> None:
    cuda.clear(cuda.malloc(8), 8, 7)


def misuse_busy_stream_destroyed(cuda: FakeCuda) -> None:
    stream = cuda.create_stream()
    cuda.clear(cuda.malloc(8), 8, stream)
    cuda.destroy_stream(stream)


def misuse_leak(cuda: FakeCuda) -> None:
    cuda.malloc(8)
    cuda.finish()


MISUSES = [value for name, value in globals().items() if name.startswith("misuse_")]


@pytest.mark.parametrize("misuse", MISUSES, ids=lambda function: function.__name__[7:])
def test_misuse_is_found(misuse: Callable[[FakeCuda], None]) -> None:
    with pytest.raises(CudaMisuse):
        misuse(FakeCuda())


@pytest.mark.parametrize("ordered", [True, False])
def test_streams_are_ordered_by_events_alone(ordered: bool) -> None:
    """Without the event, the second stream overtakes the first."""
    cuda = FakeCuda()
    first, second, event = cuda.create_stream(), cuda.create_stream(), cuda.create_event()
    order: list[str] = []
    cuda.enqueue(first, lambda: order.append("first"))
    cuda.record(event, first)
    if ordered:
        cuda.wait(second, event)
    cuda.enqueue(second, lambda: order.append("second"))
    cuda.synchronize(first)
    cuda.synchronize(second)
    assert order == (["first", "second"] if ordered else ["second", "first"])


def test_a_graph_runs_when_it_is_launched_and_not_before() -> None:
    cuda = FakeCuda()
    stream, runs = cuda.create_stream(), []
    cuda.begin_capture(stream)
    cuda.enqueue(stream, lambda: runs.append(1))
    graph = cuda.end_capture(stream)
    assert not runs
    for _ in range(2):
        cuda.launch(graph, stream)
    cuda.synchronize(stream)
    assert runs == [1, 1]


def test_memory_is_limited() -> None:
    with pytest.raises(AltogetherError, match="too little free memory"):
        FakeCuda(budget_bytes=1000).malloc(1001)
