"""Engines are found or compiled, CUDA is called as it wants, and what is missing is said."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.errors import AltogetherError, MissingDependencyError
from altogether_rt.machine import device as device_module
from altogether_rt.machine.gpu import Gpu
from altogether_rt.runtime.cpu.runtime import OnnxRuntime
from altogether_rt.runtime.cuda.bindings import CudaPython
from altogether_rt.runtime.cuda.runtime import DeviceRuntime
from altogether_rt.runtime.select import open_runtime
from altogether_rt.runtime.tensorrt import open as tensorrt_open
from altogether_rt.runtime.tensorrt.open import preferred_builders
from tests.machine.fake_driver import pretend_gpus
from tests.runtime.conftest import BundleOf
from tests.runtime.cuda.fake_cuda import FakeCuda
from tests.runtime.rows import speak
from tests.runtime.tensorrt.fake_engines import with_engines
from tests.runtime.tensorrt.fake_tensorrt import fake_tensorrt

ADA = Gpu(0, "Ada", 89, 1 << 34)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    starter = Bundle.load("starter", verify_hashes=False)
    return with_engines(starter, tmp_path_factory.mktemp("compiled") / "b")


def with_manifest(bundle: Bundle, **changes: Any) -> Bundle:
    return Bundle(bundle.path, replace(bundle.manifest, **changes))


@pytest.mark.lean
def test_the_builder_of_the_engines_is_preferred(compiled: Bundle) -> None:
    assert preferred_builders(compiled, ADA) == ("tensorrt_rtx", "tensorrt")
    engines = tuple(replace(engine, builder="tensorrt") for engine in compiled.manifest.engines)
    other = with_manifest(compiled, engines=engines)
    assert preferred_builders(other, ADA) == ("tensorrt", "tensorrt_rtx")
    assert preferred_builders(other, replace(ADA, sm=75)) == ("tensorrt_rtx", "tensorrt")


@pytest.mark.lean
def test_a_runtime_is_opened(compiled: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    pretend_gpus(monkeypatch, 75, 89)
    monkeypatch.setattr(device_module, "has_module", lambda name: True)
    monkeypatch.setattr(tensorrt_open, "open_builder", lambda names: fake_tensorrt(cuda))
    opened: list[int] = []

    def open_cuda(index: int) -> FakeCuda:
        opened.append(index)
        return cuda

    monkeypatch.setattr(tensorrt_open, "CudaPython", open_cuda)
    with open_runtime(compiled, "cuda:1", num_slots=2) as runtime:
        assert isinstance(runtime, DeviceRuntime)
        assert runtime.device == "cuda:1"
        assert runtime.num_slots == 2
    assert opened == [1]
    cuda.finish()


def test_engines_that_the_bundle_lacks_are_compiled_once(
    bundle_of: BundleOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The real recipe's graphs, with the real profiles, against the processor."""
    bundle = bundle_of("opt", "tensorrt-fp16")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cuda = FakeCuda()
    pretend_gpus(monkeypatch, 89)
    monkeypatch.setattr(device_module, "has_module", lambda name: True)
    monkeypatch.setattr(tensorrt_open, "open_builder", lambda names: fake_tensorrt(cuda))
    monkeypatch.setattr(tensorrt_open, "CudaPython", lambda index: cuda)
    with (
        open_runtime(bundle, num_slots=4) as runtime,
        OnnxRuntime(bundle, threads=1, num_slots=4) as reference,
    ):
        answers = [speak(each, bundle) for each in (runtime, reference)]
    for found, wanted in zip(*answers, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())
        assert np.array_equal(found.argmax(-1), wanted.argmax(-1))
    assert "compiling the decoder for SM 89, once for this GPU" in caplog.text
    caplog.clear()
    with open_runtime(bundle, num_slots=4):
        assert "compiling" not in caplog.text
    assert cuda.launches > 0
    cuda.finish()


class FakeBindings:
    """Stands in for `cuda.bindings.runtime`: notes calls, answers with (error, value)."""

    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down", cudaMemcpyDeviceToDevice="on"
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread")
    cudaStreamNonBlocking, cudaEventDisableTiming = 1, 2

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.failing: dict[str, Any] = {}
        self._memory = bytearray(64)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def function(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, *arguments))
            if name in self.failing:
                return (self.failing[name], None)
            if name == "cudaMemGetInfo":
                return (0, 300, 900)  # free, and all
            if name == "cudaMallocHost":
                import ctypes

                return (0, ctypes.addressof(ctypes.c_char.from_buffer(self._memory)))
            values = ("cudaMalloc", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags")
            graphs = ("cudaStreamEndCapture", "cudaGraphInstantiate")
            return (0, 4096) if name in (*values, *graphs) else (0,)

        return function


class Failure(int):
    name = "cudaErrorMemoryAllocation"


@pytest.mark.lean
def test_cuda_python_is_called_as_it_wants() -> None:
    bindings = FakeBindings()
    cuda = CudaPython(1, bindings)
    address, stream, event = cuda.malloc(64), cuda.create_stream(), cuda.create_event()
    buffer = cuda.host_alloc(64)
    buffer.array[:] = 7
    assert set(bindings._memory) == {7}
    host = buffer.address  # type: ignore[attr-defined]
    cuda.upload(address, buffer, 8, 16, stream)
    cuda.download(buffer, 4, address, 12, stream)
    cuda.copy_columns(1, 2, 32, 16, 3, stream)
    cuda.clear(address, 64, stream)
    cuda.record(event, stream)
    cuda.wait(stream, event)
    cuda.synchronize_event(event)
    cuda.begin_capture(stream)
    graph = cuda.end_capture(stream)
    cuda.launch(graph, stream)
    cuda.destroy_graph(graph)
    cuda.synchronize(stream)
    cuda.destroy_event(event)
    cuda.destroy_stream(stream)
    cuda.host_free(buffer)
    cuda.free(address)
    assert cuda.free_bytes() == 300
    assert bindings.calls == [
        ("cudaSetDevice", 1),
        ("cudaMalloc", 64),
        ("cudaStreamCreateWithFlags", 1),
        ("cudaEventCreateWithFlags", 2),
        ("cudaMallocHost", 64),
        ("cudaMemcpyAsync", 4096, host + 8, 16, "up", 4096),
        ("cudaMemcpyAsync", host + 4, 4096, 12, "down", 4096),
        ("cudaMemcpy2DAsync", 1, 32, 2, 32, 16, 3, "on", 4096),
        ("cudaMemsetAsync", 4096, 0, 64, 4096),
        ("cudaEventRecord", 4096, 4096),
        ("cudaStreamWaitEvent", 4096, 4096, 0),
        ("cudaEventSynchronize", 4096),
        ("cudaStreamBeginCapture", 4096, "thread"),
        ("cudaStreamEndCapture", 4096),
        ("cudaGraphInstantiate", 4096, 0),
        ("cudaGraphDestroy", 4096),
        ("cudaGraphLaunch", 4096, 4096),
        ("cudaGraphExecDestroy", 4096),
        ("cudaStreamSynchronize", 4096),
        ("cudaEventDestroy", 4096),
        ("cudaStreamDestroy", 4096),
        ("cudaFreeHost", host),
        ("cudaFree", 4096),
        ("cudaMemGetInfo",),
    ]


@pytest.mark.lean
def test_cuda_errors_are_sentences() -> None:
    bindings = FakeBindings()
    cuda = CudaPython(0, bindings)
    bindings.failing = {"cudaMalloc": Failure(2), "cudaFree": 700}
    with pytest.raises(AltogetherError, match="the GPU has too little free memory"):
        cuda.malloc(1)
    with pytest.raises(AltogetherError, match=r"CUDA failed \(cudaFree: 700\).* for cuda:0"):
        cuda.free(1)


@pytest.mark.lean
def test_the_real_bindings_have_what_is_called() -> None:
    """Where cuda-python is installed; without a GPU it says so itself."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    source = (
        Path(tensorrt_open.__file__).parents[1].joinpath("cuda", "bindings.py").read_text("utf-8")
    )
    import re

    names = set(re.findall(r'"(cuda[A-Z]\w+)"', source)) - {"cudaErrorMemoryAllocation"}
    assert len(names) > 15
    assert all(hasattr(runtime, name) for name in names)
    assert runtime.cudaError_t.cudaErrorMemoryAllocation.name == Failure.name


@pytest.mark.lean
def test_without_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "cuda"]:
        monkeypatch.delitem(sys.modules, name)  # another test may have imported it
    monkeypatch.setitem(sys.modules, "cuda", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'altogether-rt\[tensorrt\]'"):
        CudaPython()


@pytest.mark.lean
def test_the_real_package_has_what_is_called() -> None:
    """Where it is installed; it needs no GPU to be looked at."""
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx")
    assert hasattr(trt.Runtime, "deserialize_cuda_engine")
    assert hasattr(trt.Logger, "ERROR")
    assert "USER_MANAGED" in dir(trt.ExecutionContextAllocationStrategy)
    assert "EAGER" in dir(trt.DynamicShapesKernelSpecializationStrategy)
    engine = ("num_io_tensors", "get_tensor_name", "device_memory_size_v2")
    contexts = ("create_runtime_config", "create_execution_context")
    assert all(hasattr(trt.ICudaEngine, name) for name in (*engine, *contexts))
    config = (
        "set_execution_context_allocation_strategy",
        "dynamic_shapes_kernel_specialization_strategy",
    )
    assert all(hasattr(trt.IRuntimeConfig, name) for name in config)
    sizes = ("set_optimization_profile_async", "set_input_shape", "set_tensor_address")
    running = ("set_device_memory", "execute_async_v3", "is_stream_capturable")
    assert all(hasattr(trt.IExecutionContext, name) for name in (*sizes, *running))
