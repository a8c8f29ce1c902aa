"""The decoder's weights in device memory once: real sessions read them there, or share nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.manifest import DECODE_NAME, GRAPH_NAMES, PROMPTS_NAME, FileSpec
from altogether_rt.errors import BundleError
from altogether_rt.machine.device import parse_device
from altogether_rt.runtime.cpu.runtime import OnnxRuntime
from altogether_rt.runtime.cuda import onnx as ort_gpu
from altogether_rt.runtime.cuda import shared_weights
from altogether_rt.runtime.cuda.onnx import OrtGraph
from altogether_rt.runtime.cuda.shared_weights import (
    NotSharedError,
    SharedWeights,
    graph_bytes,
    shared_tensors,
)
from altogether_rt.runtime.graph_files import external_tensors
from tests.machine.fake_driver import pretend_gpus
from tests.runtime.conftest import BundleOf
from tests.runtime.cuda.fake_cuda import FakeCuda, QueuedSession, as_cuda, plain_options
from tests.runtime.cuda.test_decode_graph import TARGET, assert_equal_to_half
from tests.runtime.cuda.test_real_onnxruntime import WHEEL, on_wheel
from tests.runtime.rows import speak

FAMILIES = ["opt", "llama"]


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


def weights_of(cuda: FakeCuda, bundle: Bundle) -> SharedWeights:
    return SharedWeights(as_cuda(cuda), bundle.path, shared_tensors(bundle))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_shared_is_what_several_graphs_map(bundle_of: BundleOf, family: str) -> None:
    """As the onnx package reads them."""
    bundle = bundle_of(family, TARGET)
    graphs = {}
    for name in ("decoder", DECODE_NAME, PROMPTS_NAME):
        initializers = onnx.load(bundle.graph_path(name), load_external_data=False).graph
        graphs[name] = {
            tensor.name: (
                onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name,
                tuple(tensor.dims),
                *(entry.value for entry in tensor.external_data),
            )
            for tensor in initializers.initializer
            if tensor.external_data
        }
        found = {
            key: (t.dtype, t.shape, t.location, str(t.offset), str(t.nbytes))
            for key, t in external_tensors(bundle.graph_path(name)).items()
        }
        assert found == graphs[name]
    shared = shared_tensors(bundle)
    assert len(shared) > 8
    for name, found in graphs.items():
        assert set(found) - set(shared) <= ({"decoder.rotary_cos", "decoder.rotary_sin"}), name
    assert graph_bytes(bundle, DECODE_NAME) == sum(int(t[4]) for t in graphs[DECODE_NAME].values())
    assert graph_bytes(bundle, "other") == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_device_holds_each_byte_of_the_file(
    bundle_of: BundleOf, family: str, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In chunks that do not divide them."""
    monkeypatch.setattr(shared_weights, "_CHUNK_BYTES", 1000)
    bundle = bundle_of(family, TARGET)
    weights = weights_of(cuda, bundle)
    for name, tensor in shared_tensors(bundle).items():
        data = (bundle.path / tensor.location).read_bytes()
        held = cuda.view(weights.addresses[name], tensor.nbytes).tobytes()
        assert held == data[tensor.offset : tensor.offset + tensor.nbytes]
    weights.close()
    weights.close()
    cuda.finish()


@pytest.mark.parametrize("name", ["decoder", DECODE_NAME, PROMPTS_NAME])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_session_reads_them_where_they_are(
    bundle_of: BundleOf, family: str, name: str, cuda: FakeCuda
) -> None:
    """What is written there afterwards is what it computes with: it has no copy of any of them."""
    bundle = bundle_of(family, TARGET)
    weights = weights_of(cuda, bundle)
    session = QueuedSession(cuda, bundle.graph_path(name), 0, weights).session
    own = QueuedSession(cuda, bundle.graph_path(name), 0, None).session
    feeds = step_feeds(session)
    wanted = own.run(["logits"], feeds)[0]
    np.testing.assert_array_equal(session.run(["logits"], feeds)[0], wanted)
    there = external_tensors(bundle.graph_path(name))
    for key, tensor in shared_tensors(bundle).items():
        if key not in there:  # of other graphs: it is ignored
            continue
        held = cuda.view(weights.addresses[key], tensor.nbytes)
        before = held.copy()
        held[:] = 0
        changed = session.run(["logits"], feeds)[0]
        assert not np.array_equal(changed, wanted), f"{key} is read elsewhere"
        held[:] = before
    np.testing.assert_array_equal(session.run(["logits"], feeds)[0], wanted)


def step_feeds(session: Any) -> dict[str, Any]:
    """Two rows of one token behind a cache of halves; of prompts, of two tokens."""
    prompts = "longest" in {node.name for node in session.get_inputs()}
    chunk = 1 + prompts
    count = 2 * chunk
    values = {
        "token_ids": np.arange(5, 5 + count),
        "positions": np.array([0, 1, 0, 1] if prompts else [3, 4]),
        "query_lengths": np.full(2, chunk, np.int32),
        "past_lengths": np.array([3, 4], np.int32),
        "longest": np.array([chunk], np.int32),
        "pad_index": np.arange(count).reshape(2, chunk),
        "unpad_index": np.arange(count),
        "logit_index": np.arange(count),
        "visual_index": np.array([1]),
    }
    feeds = {}
    for node in session.get_inputs():
        if node.name.startswith("past_key") or node.name.startswith("past_value"):
            values[node.name] = np.full((2, *node.shape[1:]), 0.5, np.float16)
        elif node.name == "visual_tokens":
            values[node.name] = np.full((1, node.shape[1]), 0.25, np.float32)
        feeds[node.name] = values[node.name]
    return feeds


def test_a_graph_may_not_share_what_its_file_does_not_have(
    bundle_of: BundleOf, tmp_path: Path
) -> None:
    """Parts beyond the end, other lengths than the shape's, and weights that are not the same."""
    bundle = bundle_of("opt", TARGET)
    names = list(shared_tensors(bundle))
    edits: list[tuple[str, str, str]] = [
        (names[0], "offset", str(bundle.manifest.files["weights.bin"].bytes)),
        (names[1], "length", "64"),
        (names[2], "location", "elsewhere.bin"),
        (names[3], "offset", "-4096"),
    ]
    for name, graph in bundle.manifest.graphs.items():
        model = onnx.load(bundle.path / graph.file, load_external_data=False)
        for tensor in model.graph.initializer:
            for wanted, key, value in edits:
                for entry in tensor.external_data:
                    if tensor.name == wanted and entry.key == key and name != "mapper":
                        entry.value = value
        if name == DECODE_NAME:
            (last,) = [t for t in model.graph.initializer if t.name == names[4]]
            last.dims[:] = reversed(last.dims)
        (tmp_path / graph.file).write_bytes(model.SerializeToString())
    changed = Bundle(tmp_path, bundle.manifest)
    assert set(shared_tensors(changed)) == set(names[5:])
    files = {**bundle.manifest.files, "weights.bin": FileSpec(10, "")}
    assert shared_tensors(Bundle(tmp_path, replace(bundle.manifest, files=files))) == {}
    (tmp_path / "decoder.onnx").write_bytes(b"\x3a\x7f")
    with pytest.raises(BundleError, match=r"decoder\.onnx is not an ONNX graph"):
        shared_tensors(changed)


def test_one_graph_shares_nothing(bundle_of: BundleOf) -> None:
    bundle = bundle_of("opt", TARGET)
    graphs = {name: bundle.manifest.graphs[name] for name in GRAPH_NAMES}
    assert shared_tensors(Bundle(bundle.path, replace(bundle.manifest, graphs=graphs))) == {}


def test_memory_that_is_not_there(bundle_of: BundleOf) -> None:
    cuda = FakeCuda(budget_bytes=100)
    with pytest.raises(Exception, match="too little free memory"):
        weights_of(cuda, bundle_of("opt", TARGET))
    cuda.finish()


def test_a_file_that_cannot_be_read_leaves_nothing_behind(
    bundle_of: BundleOf, cuda: FakeCuda, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        SharedWeights(as_cuda(cuda), tmp_path, shared_tensors(bundle_of("opt", TARGET)))
    cuda.finish()


def test_what_onnxruntime_does_not_take(bundle_of: BundleOf, cuda: FakeCuda) -> None:
    """Twice the same name, as one example of a refusal."""
    weights = weights_of(cuda, bundle_of("opt", TARGET))
    options = plain_options()
    weights.add_to(options, onnxruntime, ("cpu", 0))
    with pytest.raises(NotSharedError, match="already been added"):
        weights.add_to(options, onnxruntime, ("cpu", 0))


Opened = Callable[..., tuple[Any, FakeCuda, list[int]]]


@pytest.fixture
def opened(bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """opened(copies): all of `open_onnx_gpu` but for the library that loads kernels.

    copies: whether a session takes as much device memory as if it copied the weights. Gives the
    runtime, its device, and how many bytes of weights slots were planned with besides the files.
    """

    def open_with(copies: bool) -> tuple[Any, FakeCuda, list[int]]:
        bundle, cuda, copied = bundle_of("opt", TARGET), FakeCuda(), list[int]()

        def session(ort: Any, path: Path, *, stream: int, **given: Any) -> Any:
            weights = given["weights"]
            if weights is not None and copies:
                cuda.malloc(weights.nbytes)
            return QueuedSession(cuda, given["model"] or path, stream, weights)

        def slots(bundle: Bundle, memory_bytes: int, again: int) -> int:
            copied.append(again)
            return 4

        pretend_gpus(monkeypatch, 90)
        monkeypatch.setattr(shared_weights, "_SESSION_BYTES", 0)
        monkeypatch.setattr(ort_gpu, "check_providers", lambda found, wanted: None)
        monkeypatch.setattr(ort_gpu, "CudaPython", lambda index: cuda)
        monkeypatch.setattr(ort_gpu, "_open_session", session)
        monkeypatch.setattr(ort_gpu, "OrtGraph", partial(_on_cpu, OrtGraph))
        monkeypatch.setattr(ort_gpu, "bundle_slots", slots)
        return ort_gpu.open_onnx_gpu(bundle, parse_device("cuda")), cuda, copied

    return open_with


def _on_cpu(kind: type[OrtGraph], session: Any, *, index: int, keep: object = None) -> OrtGraph:
    return kind(session, kind="cpu", keep=keep)


def test_a_runtime_on_shared_weights(
    opened: Opened, bundle_of: BundleOf, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = bundle_of("opt", TARGET)
    with caplog.at_level(logging.INFO):
        runtime, cuda, copied = opened(copies=False)
    assert copied == [0]
    assert "weights on cuda:0: 0.0 GB once" in caplog.text
    with runtime, OnnxRuntime(bundle, threads=1, num_slots=4) as reference:
        for found, wanted in zip(
            *(speak(each, bundle) for each in (runtime, reference)), strict=True
        ):
            assert_equal_to_half(found, wanted)
    cuda.finish()  # the weights too


def test_a_session_that_copies_them_is_given_none(
    opened: Opened, bundle_of: BundleOf, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise they would be on the GPU three times."""
    bundle = bundle_of("opt", TARGET)
    with caplog.at_level(logging.INFO):
        runtime, cuda, copied = opened(copies=True)
    assert copied == [0, graph_bytes(bundle, DECODE_NAME)]
    assert "a copy for each graph (opening a graph took 0.0 GB of the GPU)" in caplog.text
    with runtime, OnnxRuntime(bundle, threads=1, num_slots=4) as reference:
        for found, wanted in zip(
            *(speak(each, bundle) for each in (runtime, reference)), strict=True
        ):
            assert_equal_to_half(found, wanted)
    left = [len(block) for block in cuda._memory.values()]
    assert left == [sum(-(-t.nbytes // 256) * 256 for t in shared_tensors(bundle).values())]


def test_a_decoder_that_does_not_load_with_them_may_load_without(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = shared_weights.SharedWeights.add_to

    def refuse(self: SharedWeights, options: Any, ort: Any, device: tuple[str, int]) -> None:
        plain(self, options, ort, device)
        raise BundleError("onnxruntime cannot load decoder.onnx (why): export it again.")

    monkeypatch.setattr(shared_weights.SharedWeights, "add_to", refuse)
    with caplog.at_level(logging.INFO):
        runtime, cuda, _ = opened(copies=False)
    assert "a copy for each graph (onnxruntime cannot load decoder.onnx (why)" in caplog.text
    runtime.close()
    cuda.finish()


GIVEN = """
import sys
from pathlib import Path

import onnxruntime
from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.runtime.cuda.shared_weights import SharedWeights, shared_tensors
from tests.runtime.cuda.fake_cuda import FakeCuda

weights = SharedWeights(FakeCuda(), Path(sys.argv[1]), shared_tensors(Bundle.load(sys.argv[1])))
for index in (0, 1):
    weights._values.clear()
    weights.add_to(onnxruntime.SessionOptions(), onnxruntime, ("cuda", index))
    for name, (_, value) in weights._values.items():
        assert value.device_name() == "cuda" and value.data_ptr() == weights.addresses[name]
        device = onnxruntime.OrtDevice.make("cuda", index)._get_c_device()
        assert (device.device_id(), device.vendor_id()) == (index, 0x10DE)
print(len(weights._values))
"""


def test_the_build_for_cuda_takes_them_as_device_memory(bundle_of: BundleOf) -> None:
    """Tensors that own no memory, on the device that its CUDA provider plans weights for."""
    if not (WHEEL / "onnxruntime").is_dir():
        pytest.skip("onnxruntime-gpu is not installed: run tests/runtime/cuda/install.sh")
    bundle = bundle_of("opt", TARGET)
    done = on_wheel(GIVEN, bundle.path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(len(shared_tensors(bundle)))]
