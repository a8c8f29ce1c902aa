"""ONNX Runtime on CUDA: what it says when it cannot, and its runtime on stand-ins for the GPU."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.errors import AltogetherError, BundleError
from altogether_rt.machine.device import parse_device
from altogether_rt.runtime import ort_session
from altogether_rt.runtime.cpu.runtime import OnnxRuntime
from altogether_rt.runtime.cuda import onnx as ort_gpu
from altogether_rt.runtime.cuda.limits import ONNX_PREFILL_TOKENS, bundle_slots, call_limits
from altogether_rt.runtime.cuda.onnx import OrtGraph, onnx_gpu_runtime
from altogether_rt.runtime.ort_session import missing_library
from altogether_rt.runtime.pipelined import as_pipelined
from tests.machine.fake_driver import pretend_gpus
from tests.runtime.conftest import BundleOf
from tests.runtime.cuda.fake_cuda import FakeCuda, QueuedSession, as_cuda, graph_model
from tests.runtime.rows import speak

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"


class FakeOnnxruntime:
    """A module whose sessions start with some providers only, and which notes what it is asked."""

    def __init__(self, *loadable: str, raises: bool = False) -> None:
        self.__file__ = "/nowhere/onnxruntime/__init__.py"
        self.loadable = loadable
        self.raises = raises
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.entries: dict[str, str] = {}

    def set_default_logger_severity(self, severity: int) -> None:
        import onnxruntime  # whatever is installed: it refuses what is out of range

        onnxruntime.set_default_logger_severity(severity)
        onnxruntime.set_default_logger_severity(2)

    def SessionOptions(self) -> SimpleNamespace:
        return SimpleNamespace(add_session_config_entry=self.entries.__setitem__)

    def InferenceSession(
        self, path: str, options: Any, providers: Any, enable_fallback: int = 1
    ) -> SimpleNamespace:
        self.asked = providers
        if self.raises:
            raise RuntimeError("nodes are assigned to the default CPU EP\nmore")
        running = [name for name, _ in providers if name in self.loadable]
        return SimpleNamespace(get_providers=lambda: [*running, CPU])


def open_fake(ort: FakeOnnxruntime, *, tensorrt: bool = False, decoder: bool = True) -> Any:
    return ort_gpu._open_session(
        ort, Path("b/g.onnx"), index=1, stream=77, tensorrt=tensorrt, decoder=decoder
    )


@pytest.fixture
def wants(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """wants(library): what the loader does not find."""

    def pretend(library: str | None) -> None:
        monkeypatch.setattr(ort_gpu, "missing_library", lambda ort, provider: library)

    return pretend


@pytest.mark.lean
def test_the_decoder_may_not_fall_back_to_the_processor() -> None:
    ort = FakeOnnxruntime(CUDA)
    open_fake(ort)
    assert ort.entries["session.disable_cpu_ep_fallback"] == "1"
    wanted = {"device_id": "1", "user_compute_stream": "77", "enable_cuda_graph": "1"}
    wanted |= {"enable_skip_layer_norm_strict_mode": "1"}  # float32 statistics
    assert ort.asked == [(CUDA, wanted)]
    ort = FakeOnnxruntime(CUDA)
    open_fake(ort, decoder=False)
    assert "session.disable_cpu_ep_fallback" not in ort.entries
    assert ort.asked == [(CUDA, {**wanted, "enable_cuda_graph": "0"})]


@pytest.mark.lean
def test_tensorrt_stands_before_cuda() -> None:
    ort = FakeOnnxruntime(CUDA, TENSORRT)
    open_fake(ort, tensorrt=True)
    (first, options), (second, _) = ort.asked
    assert (first, second) == (TENSORRT, CUDA)
    assert options["trt_engine_cache_path"] == "b"


@pytest.mark.lean
@pytest.mark.parametrize(
    ("library", "tensorrt", "sentence"),
    [
        (
            "libcublasLt.so.13",
            False,
            r"could not start CUDAExecutionProvider: libcublasLt.so.13 is missing. Run pip "
            r"install 'onnxruntime-gpu\[cuda,cudnn\]'\.",
        ),
        (
            "libnvinfer.so.10",
            True,
            "could not start TensorrtExecutionProvider: libnvinfer.so.10 is missing. Run pip "
            r"install tensorrt\.",
        ),
        (
            "libcuda.so.1",
            False,
            r"could not start CUDAExecutionProvider: there is no NVIDIA driver \(libcuda.so.1",
        ),
        (
            None,
            False,
            "could not start CUDAExecutionProvider: check that the driver's CUDA version",
        ),
    ],
)
def test_a_provider_that_did_not_load_is_an_error(
    library: str | None, tensorrt: bool, sentence: str, wants: Callable[[str | None], None]
) -> None:
    wants(library)
    loadable = (CUDA,) if tensorrt else ()  # not the one that was asked for
    with pytest.raises(AltogetherError, match=sentence):
        open_fake(FakeOnnxruntime(*loadable), tensorrt=tensorrt, decoder=False)


@pytest.mark.lean
def test_a_session_that_fails_is_a_sentence(wants: Callable[[str | None], None]) -> None:
    wants("libcudart.so.13")
    with pytest.raises(AltogetherError, match=r"libcudart\.so\.13 is missing"):
        open_fake(FakeOnnxruntime(raises=True))
    wants(None)
    sentence = r"cannot load b/g.onnx on cuda:1 \(nodes are assigned to the default CPU EP\)"
    with pytest.raises(BundleError, match=sentence):
        open_fake(FakeOnnxruntime(raises=True))


@pytest.mark.lean
@pytest.mark.parametrize("tensorrt", [False, True])
def test_onnxruntime_does_not_try_another_provider_by_itself(
    tensorrt: bool,
    wants: Callable[[str | None], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its own class, whose provider does not start: the first error is told, nothing is printed."""
    ort = ort_session.import_onnxruntime()
    tried = []

    def create(session: object, providers: list[str], options: object, *_: object) -> None:
        tried.append(providers)
        raise RuntimeError(f"CUDA failure 35 in attempt {len(tried)}")

    monkeypatch.setattr(ort.InferenceSession, "_create_inference_session", create)
    wants(None)
    with pytest.raises(BundleError, match=r"\(CUDA failure 35 in attempt 1\)"):
        ort_gpu._open_session(
            ort, Path("b/g.onnx"), index=0, stream=0, tensorrt=tensorrt, decoder=False
        )
    assert len(tried) == 1
    assert capsys.readouterr().out == ""  # rows may go there


@pytest.mark.lean
def test_the_missing_library_is_what_the_loader_says(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = ort_session.import_onnxruntime()
    # The provider of another build is not there: that is what the loader misses.
    if not (Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so").exists():
        assert missing_library(ort, CUDA) == "libonnxruntime_providers_cuda.so"

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        assert command[-1].endswith("libonnxruntime_providers_tensorrt.so")
        line = "OSError: libnvinfer.so.10: cannot open shared object file: No such file"
        return SimpleNamespace(stderr=f"Traceback\n{line}\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert missing_library(ort, TENSORRT) == "libnvinfer.so.10"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stderr=""))
    assert missing_library(ort, CUDA) is None


@pytest.mark.lean
def test_limits_hold_what_the_engine_may_ask_for() -> None:
    bundle = Bundle.load("starter", verify_hashes=False)
    prompt, prefix = bundle.config.max_chunk_tokens, bundle.config.mapper.prefix_length
    for slots in (1, 16, 256):
        limits = call_limits(bundle, slots)
        assert limits.max_sizes.rows == slots
        assert limits.max_sizes.chunk >= prompt
        assert limits.positions == bundle.config.slot_positions
        # All slots bring a prompt, up to the budget and one more; the dummy token has a place.
        prompts = min(slots, ONNX_PREFILL_TOKENS // prompt + 1)
        assert limits.max_sizes.tokens > prompts * prompt
        assert limits.max_sizes.visual >= prompts * prefix
        assert limits.max_sizes.wanted == 16 * slots


@pytest.mark.lean
def test_a_large_gpu_is_given_many_slots() -> None:
    """A decoder of OPT-1.3B's size: half of what its weights leave, at most 256."""
    cache = replace(
        Bundle.load("starter", verify_hashes=False).manifest.cache,
        dtype="float16",
        layers=24,
        kv_heads=32,
        head_dim=64,
    )

    def bundle() -> Any:
        manifest = {"cache": cache, "files": {"weights": SimpleNamespace(bytes=4 * 10**9)}}
        config = {"slot_positions": 376, "decoder": SimpleNamespace(vocab_size=50272)}
        return SimpleNamespace(
            manifest=SimpleNamespace(**manifest), config=SimpleNamespace(**config)
        )

    # A position's keys and values, and the logits of a verified draft with the token before it.
    slot = 376 * 2 * 24 * 32 * 64 * 2 + 16 * 50272 * 4
    assert 70e6 < slot < 80e6
    found = {
        memory: (
            bundle_slots(bundle(), memory * 10**9),
            bundle_slots(bundle(), memory * 10**9, copied=26 * 10**8),
        )
        for memory in (4, 5, 8, 16, 24, 80, 141)
    }
    assert found == {
        4: (1, 1),  # no memory at all: opening it will say so
        5: (6, 1),  # 1e9 / 2 / slot = 6.5
        8: (24, 8),  # 25.9, 9.1
        16: (72, 56),  # 12e9 / 2 / slot = 77.7, 9.4e9 / 2 / slot = 60.9
        24: (128, 112),  # 129.6, 112.7
        80: (256, 256),
        141: (256, 256),
    }


def test_it_opens_with_as_many_slots_as_fit(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole of `open_onnx_gpu` but for the library that loads kernels."""
    bundle, cudas = bundle_of("opt", "cuda-fp16"), list[FakeCuda]()
    threads = set[str]()

    def start(index: int) -> FakeCuda:
        assert index == 0
        threads.add(threading.current_thread().name)
        cudas.append(FakeCuda(budget_bytes=1 << 33))
        return cudas[-1]

    def session(ort: Any, path: Path, *, stream: int, **given: Any) -> QueuedSession:
        threads.add(threading.current_thread().name)
        return QueuedSession(cudas[-1], given["model"] or path, stream)

    pretend_gpus(monkeypatch, 90)
    monkeypatch.setattr(ort_gpu, "check_providers", lambda found, wanted: None)
    monkeypatch.setattr(ort_gpu, "CudaPython", start)
    monkeypatch.setattr(ort_gpu, "_open_session", session)
    monkeypatch.setattr(ort_gpu, "OrtGraph", partial(_graph, OrtGraph))
    monkeypatch.setattr(ort_gpu, "bundle_slots", lambda bundle, memory_bytes, copied: 5)
    for given, slots in ((None, 5), (3, 3)):
        with (
            ort_gpu.open_onnx_gpu(bundle, parse_device("cuda"), given) as runtime,
            OnnxRuntime(bundle, threads=1, num_slots=slots) as reference,
        ):
            assert runtime.num_slots == slots
            assert runtime.prefill_tokens == ONNX_PREFILL_TOKENS
            assert as_pipelined(runtime) is not None
            answers = [speak(each, bundle) for each in (runtime, reference)]
        cudas[-1].finish()
        for found, wanted in zip(*answers, strict=True):
            np.testing.assert_allclose(found, wanted, atol=4e-3 * np.abs(wanted).max())
    assert threading.current_thread().name not in threads


def _graph(kind: type[OrtGraph], session: Any, *, index: int, keep: object = None) -> OrtGraph:
    return kind(session, kind="cpu", keep=keep)


def test_steps_are_those_of_the_processor(bundle_of: BundleOf) -> None:
    """The real recipe's graphs, in device memory that is the host's."""
    bundle = bundle_of("opt", "cuda-fp16")
    cuda = FakeCuda()

    def load(name: str, stream: int) -> OrtGraph:
        session = QueuedSession(cuda, graph_model(bundle, name), stream)
        return OrtGraph(session, kind="cpu")

    with (
        onnx_gpu_runtime(bundle, as_cuda(cuda), load, num_slots=4) as gpu,
        OnnxRuntime(bundle, threads=1, num_slots=4) as reference,
    ):
        answers = [speak(runtime, bundle) for runtime in (gpu, reference)]
    cuda.finish()
    for found, wanted in zip(*answers, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())
        assert np.array_equal(found.argmax(-1), wanted.argmax(-1))
