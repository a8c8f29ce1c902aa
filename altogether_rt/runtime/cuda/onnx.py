"""ONNX Runtime on a GPU, with CUDA kernels or through TensorRT, or the reason it cannot run."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.manifest import DECODE_NAME, DECODER_GRAPHS, PROMPTS_NAME
from altogether_rt.errors import BundleError
from altogether_rt.machine.device import Device, check_providers, find_gpu
from altogether_rt.machine.gpu import Gpu
from altogether_rt.runtime.ahead import AheadRuntime
from altogether_rt.runtime.cuda.api import Cuda
from altogether_rt.runtime.cuda.bindings import CudaPython
from altogether_rt.runtime.cuda.choose_decode import choose_graphs
from altogether_rt.runtime.cuda.graph import DeviceGraph, Tensor
from altogether_rt.runtime.cuda.limits import ONNX_PREFILL_TOKENS, bundle_slots, call_limits
from altogether_rt.runtime.cuda.runtime import DeviceRuntime, GraphSizes, LoadGraph
from altogether_rt.runtime.cuda.sampling.candidates import LIKELIEST_NAME, candidates_model
from altogether_rt.runtime.cuda.shared_weights import (
    NotSharedError,
    SharedWeights,
    graph_bytes,
    shared_tensors,
)
from altogether_rt.runtime.cuda.vision import batch_shape
from altogether_rt.runtime.ort_session import (
    import_onnxruntime,
    missing_library,
    provider_not_loaded,
)

__all__ = ["OrtGraph", "onnx_gpu_runtime", "open_onnx_gpu"]

_LOGGER = logging.getLogger(__name__)
_FATAL = 4  # the highest that onnxruntime takes
#: Maximum images of one encoder or mapper call.
_MAX_IMAGES = 32
_DTYPES = {
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
}


def open_onnx_gpu(bundle: Bundle, device: Device, num_slots: int | None = None) -> AheadRuntime:
    """Open a bundle on a GPU. num_slots: None: as many as are fast and fit.

    onnxruntime waits for the device when it replays a captured graph, and keeps such graphs by
    thread: one thread makes all calls, and steps are begun ahead.

    Raises AltogetherError, BundleError or MissingDependencyError if it cannot run there.
    """
    gpu = find_gpu(device)
    ort = import_onnxruntime()
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA libraries that pip installed, which are on no loader path
    wanted = "TensorrtExecutionProvider" if device.kind == "tensorrt" else "CUDAExecutionProvider"
    check_providers(ort.get_available_providers(), wanted)

    def open_here() -> DeviceRuntime:
        cuda = CudaPython(gpu.index)  # current for the thread that this is called in
        tensors = shared_tensors(bundle) if device.kind == "cuda" else {}
        if tensors:
            try:
                return _open_on(cuda, SharedWeights(cuda, bundle.path, tensors))
            except NotSharedError as error:
                _LOGGER.info("weights on cuda:%d: a copy for each graph (%s)", gpu.index, error)
        return _open_on(cuda, None)

    def _open_on(cuda: Cuda, weights: SharedWeights | None) -> DeviceRuntime:
        copied = graph_bytes(bundle, DECODE_NAME) if weights is None else 0
        runtime = onnx_gpu_runtime(
            bundle,
            cuda,
            _loader(ort, bundle, cuda, gpu, device.kind == "tensorrt", weights),
            index=gpu.index,
            num_slots=num_slots or bundle_slots(bundle, gpu.memory_bytes, copied),
            weights=weights,
        )
        if weights is not None:
            _LOGGER.info("weights on cuda:%d: %.1f GB once", gpu.index, weights.nbytes / 1e9)
        for choice in choose_graphs(runtime):
            _LOGGER.info("%s on cuda:%d: %s", choice.kind, gpu.index, choice)
        return runtime

    return AheadRuntime(open_here)


def _loader(
    ort: Any, bundle: Bundle, cuda: Cuda, gpu: Gpu, tensorrt: bool, weights: SharedWeights | None
) -> LoadGraph:
    """Opens sessions on a GPU. weights: of the decoder's graphs."""

    def load(name: str, stream: int) -> OrtGraph:
        """Raises NotSharedError if a session does not read the shared weights."""
        given = weights if name in DECODER_GRAPHS else None
        small = name == LIKELIEST_NAME
        model = candidates_model(bundle.config.decoder.vocab_size) if small else None
        free_before = cuda.free_bytes()
        try:
            session = _open_session(
                ort,
                bundle.path if small else bundle.graph_path(name),
                model=model,
                index=gpu.index,
                stream=stream,
                tensorrt=tensorrt,
                decoder=name not in ("encoder", "mapper"),
                captured=name in ("decoder", DECODE_NAME),
                weights=given,
            )
        except BundleError as error:
            if given is None or name != "decoder":
                raise
            raise NotSharedError(str(error)) from error  # it may be loaded with its own
        if given is not None:
            given.check_used(free_before)
        return OrtGraph(session, index=gpu.index, keep=given)

    return load


def onnx_gpu_runtime(
    bundle: Bundle,
    cuda: Cuda,
    load: LoadGraph,
    *,
    index: int = 0,
    num_slots: int = 16,
    weights: SharedWeights | None = None,
) -> DeviceRuntime:
    """A runtime whose sessions are opened by `load(name, stream)`.

    weights: what its sessions read; freed with the runtime, or if it cannot be opened. A graph of
    decode steps, or of new prompts, that cannot be loaded is left out: the decoder's graph takes
    them too. So is that of prompts without `weights`, as a third copy would be too many; without
    that of the likeliest tokens, the caller draws.
    """
    owned = ExitStack()
    if weights is not None:
        owned.callback(weights.close)

    def load_optional(name: str, stream: int) -> DeviceGraph | None:
        there = name == LIKELIEST_NAME or name in bundle.manifest.graphs
        if not there or (name == PROMPTS_NAME and weights is None):
            return None
        try:
            return load(name, stream)
        except BundleError as error:  # this version has no such kernel for this GPU
            _LOGGER.info("%s", error)
            return None

    vision = {
        name: batch_shape(name, bundle.manifest.graphs[name], 1, min(num_slots, _MAX_IMAGES))
        for name in ("encoder", "mapper")
    }
    sizes = GraphSizes([call_limits(bundle, num_slots)], vision)
    return DeviceRuntime(
        bundle,
        cuda,
        sizes,
        load,
        index=index,
        num_slots=num_slots,
        prefill_tokens=ONNX_PREFILL_TOKENS,
        load_optional=load_optional,
        owned=owned,
    )


def _open_session(
    ort: Any,
    path: Path,
    *,
    index: int,
    stream: int,
    tensorrt: bool,
    decoder: bool,
    captured: bool = True,
    model: bytes | None = None,
    weights: SharedWeights | None = None,
) -> Any:
    """A session that runs on `stream`. captured: whether runs of a decoder's graph may be; model: a
    graph that is in no file; weights: on the GPU, to be read where they are.

    Raises AltogetherError if it runs on another provider, NotSharedError if it takes no `weights`.
    """
    shared = {"device_id": str(index), "user_compute_stream": str(stream)}
    cuda = {
        **shared,
        "enable_cuda_graph": "1" if decoder and captured and not tensorrt else "0",
        # Where onnxruntime fuses a sum with the norm behind it: statistics stay in float32.
        "enable_skip_layer_norm_strict_mode": "1",
    }
    providers: list[tuple[str, dict[str, str]]] = [("CUDAExecutionProvider", cuda)]
    if tensorrt:
        cached = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(path.parent)}
        providers.insert(0, ("TensorrtExecutionProvider", {**shared, **cached}))
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL  # errors are reported below, in a sentence
    if decoder:
        # Nodes on the CPU would stall every step and cannot be part of a captured graph. Encoder
        # and mapper compute a few shapes there.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if weights is not None:
        weights.add_to(options, ort, ("cuda", index))
    wanted = providers[0][0]
    ort.set_default_logger_severity(_FATAL)
    try:
        session = ort.InferenceSession(
            model or str(path),
            options,
            providers=providers,
            enable_fallback=0,  # it would try the CPU, and print so among rows on stdout
        )
        running = session.get_providers()[0]
    except Exception as error:  # onnxruntime's exceptions share no public base
        library = missing_library(ort, wanted)
        if library is not None:
            raise provider_not_loaded(wanted, library) from error
        first_line = (str(error).splitlines() or [""])[0]
        raise BundleError(
            f"onnxruntime cannot load {path} on cuda:{index} ({first_line}): export it again."
        ) from error
    if running != wanted:
        raise provider_not_loaded(wanted, missing_library(ort, wanted))
    return session


class OrtGraph:
    """A session whose tensors are at the addresses they are bound to; implements `DeviceGraph`."""

    scratch_bytes = 0  # onnxruntime allocates from its own arena

    def __init__(
        self, session: Any, *, kind: str = "cuda", index: int = 0, keep: object = None
    ) -> None:
        """kind, index: the device of the addresses, as onnxruntime names it. keep: what has to live
        as long as the session."""
        self._session, self._keep = session, keep
        self._device = (kind, index)
        nodes = (*session.get_inputs(), *session.get_outputs())
        self._dtypes = {node.name: _DTYPES[node.type] for node in nodes}
        self._graph_ids = itertools.count(1)

    @property
    def tensor_names(self) -> tuple[str, ...]:
        return tuple(self._dtypes)

    def context(
        self, profile: int, scratch: int, stream: int, *, dedicated: bool = False
    ) -> OrtContext:
        """See `DeviceGraph.context`. onnxruntime itself captures the runs of a dedicated one."""
        graph_id = next(self._graph_ids) if dedicated else -1
        return OrtContext(self._session, self._dtypes, self._device, graph_id)


class OrtContext:
    """Bindings and options of a run; implements `DeviceContext`."""

    def __init__(
        self, session: Any, dtypes: Mapping[str, Any], device: tuple[str, int], graph_id: int
    ) -> None:
        self._session = session
        self._dtypes = dtypes
        self._device = device
        self._binding: Any = None
        options = import_onnxruntime().RunOptions()
        # The stream is ours; we synchronise it when we need the results.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        options.add_run_config_entry("gpu_graph_id", str(graph_id))  # -1: not captured
        self._options = options

    def bind(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """See `DeviceContext.bind`."""
        binding = self._session.io_binding()
        for name, tensor in inputs.items():
            device = ("cpu", 0) if tensor.on_host else self._device
            memory = (*device, self._dtypes[name], tensor.shape, tensor.address)
            binding.bind_input(name, *memory)
        for name, tensor in outputs.items():
            memory = (*self._device, self._dtypes[name], tensor.shape, tensor.address)
            binding.bind_output(name, *memory)
        self._binding = binding

    def run(self, stream: int) -> None:
        """Enqueue the run on the session's stream, which is `stream`."""
        self._session.run_with_iobinding(self._binding, self._options)

    def capturable(self, stream: int) -> bool:
        """Always false: onnxruntime allocates memory while it runs."""
        return False
