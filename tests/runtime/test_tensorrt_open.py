"""Which engines run here, and every sentence for when none does."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from altogether_rt.bundle import Bundle
from altogether_rt.errors import AltogetherError, BundleError, MissingDependencyError
from altogether_rt.runtime import device as device_module
from altogether_rt.runtime import tensorrt_open
from altogether_rt.runtime.cuda_python import CudaPython
from altogether_rt.runtime.device_runtime import DeviceRuntime
from altogether_rt.runtime.gpu import Gpu
from altogether_rt.runtime.select import open_runtime
from altogether_rt.runtime.tensorrt_engine import TensorRT, import_tensorrt
from altogether_rt.runtime.tensorrt_open import choose_engines, preferred_modules
from tests.runtime.fake_cuda import FakeCuda
from tests.runtime.fake_driver import pretend_gpus
from tests.runtime.fake_tensorrt import VERSION, fake_tensorrt, with_engines

pytestmark = pytest.mark.lean

ADA = Gpu(0, "Ada", 89, 1 << 34)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    starter = Bundle.load("starter", verify_hashes=False)
    return with_engines(starter, tmp_path_factory.mktemp("compiled") / "b")


def with_manifest(bundle: Bundle, **changes: Any) -> Bundle:
    return Bundle(bundle.path, replace(bundle.manifest, **changes))


def test_engines_for_this_gpu_are_taken(compiled: Bundle) -> None:
    others = [replace(engine, sm=120) for engine in compiled.manifest.engines]
    both = with_manifest(compiled, engines=(*others, *compiled.manifest.engines))
    chosen = choose_engines(both, ADA, "tensorrt_rtx", VERSION)
    assert {name: engine.graph for name, engine in chosen.items()} == {
        name: name for name in ("encoder", "mapper", "decoder")
    }
    assert {engine.sm for engine in chosen.values()} == {89}


@pytest.mark.parametrize(
    ("sm", "version", "keep", "sentence"),
    [
        (86, VERSION, 3, r"engines for compute capability 8.9, and GPU has 8.6: export"),
        (89, "1.6.0", 3, r"were built by tensorrt_rtx 1.7.1.116, and tensorrt_rtx 1.6.0 is inst"),
        (89, VERSION, 2, r"has no engine of its decoder for GPU: export"),
        (89, VERSION, 0, r"holds no engines: export"),
    ],
)
def test_engines_that_do_not_run_here(
    sm: int, version: str, keep: int, sentence: str, compiled: Bundle
) -> None:
    bundle = with_manifest(compiled, engines=compiled.manifest.engines[:keep])
    with pytest.raises(BundleError, match=sentence):
        choose_engines(bundle, Gpu(0, "GPU", sm, 1), "tensorrt_rtx", version)


def test_the_builder_of_the_engines_is_preferred(compiled: Bundle) -> None:
    assert preferred_modules(compiled, ADA) == ("tensorrt_rtx", "tensorrt")
    engines = tuple(replace(engine, builder="tensorrt") for engine in compiled.manifest.engines)
    other = with_manifest(compiled, engines=engines)
    assert preferred_modules(other, ADA) == ("tensorrt", "tensorrt_rtx")
    assert preferred_modules(other, replace(ADA, sm=75)) == ("tensorrt_rtx", "tensorrt")


def test_a_runtime_is_opened(compiled: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    pretend_gpus(monkeypatch, 75, 89)
    monkeypatch.setattr(device_module, "has_module", lambda name: True)
    monkeypatch.setattr(tensorrt_open, "import_tensorrt", lambda preferred: fake_tensorrt(cuda))
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


def install(monkeypatch: pytest.MonkeyPatch, **modules: Any) -> None:
    """tensorrt_rtx and tensorrt: a module, or None for one that is not installed."""
    for name in ("tensorrt_rtx", "tensorrt"):
        monkeypatch.setitem(sys.modules, name, modules.get(name))


def working(version: str) -> Any:
    return SimpleNamespace(__version__=version, Runtime=object)


def test_the_first_module_that_works_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    rtx, full = working("1.7"), working("11.4")
    install(monkeypatch, tensorrt_rtx=rtx, tensorrt=full)
    assert import_tensorrt() == TensorRT("tensorrt_rtx", "1.7", rtx)
    assert import_tensorrt(("tensorrt", "tensorrt_rtx")) == TensorRT("tensorrt", "11.4", full)
    install(monkeypatch, tensorrt_rtx=ModuleType("tensorrt_rtx"), tensorrt=full)
    assert import_tensorrt().name == "tensorrt"


def test_a_stub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tensorrt_rtx=ModuleType("tensorrt_rtx"))
    sentence = "tensorrt_rtx is installed but does not load .the package has none of"
    with pytest.raises(AltogetherError, match=sentence):
        import_tensorrt(("tensorrt_rtx",))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    library = "libtensorrt_rtx.so.1: cannot open shared object file"
    (tmp_path / "tensorrt_rtx.py").write_text(f"raise ImportError({library!r})\n")
    with pytest.raises(AltogetherError, match=rf"\({library}\): run pip install --force-reinstall"):
        import_tensorrt(("tensorrt_rtx",))


def test_none_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", _not_found)
    with pytest.raises(MissingDependencyError, match="needs tensorrt_rtx, which is not installed"):
        import_tensorrt()


def _not_found(name: str) -> Any:
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


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
            if name == "cudaMallocHost":
                import ctypes

                return (0, ctypes.addressof(ctypes.c_char.from_buffer(self._memory)))
            values = ("cudaMalloc", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags")
            graphs = ("cudaStreamEndCapture", "cudaGraphInstantiate")
            return (0, 4096) if name in (*values, *graphs) else (0,)

        return function


class Failure(int):
    name = "cudaErrorMemoryAllocation"


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
    ]


def test_cuda_errors_are_sentences() -> None:
    bindings = FakeBindings()
    cuda = CudaPython(0, bindings)
    bindings.failing = {"cudaMalloc": Failure(2), "cudaFree": 700}
    with pytest.raises(AltogetherError, match="the GPU has not enough free memory"):
        cuda.malloc(1)
    with pytest.raises(AltogetherError, match=r"CUDA failed \(cudaFree: 700\).* of cuda:0"):
        cuda.free(1)


def test_the_real_bindings_have_what_is_called() -> None:
    """Where cuda-python is installed; without a GPU it says so itself."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    source = Path(tensorrt_open.__file__).with_name("cuda_python.py").read_text("utf-8")
    import re

    names = set(re.findall(r'"(cuda[A-Z]\w+)"', source)) - {"cudaErrorMemoryAllocation"}
    assert len(names) > 15
    assert all(hasattr(runtime, name) for name in names)
    assert runtime.cudaError_t.cudaErrorMemoryAllocation.name == Failure.name


def test_without_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'altogether-rt\[tensorrt\]'"):
        CudaPython()
