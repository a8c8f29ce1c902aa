"""ONNX Runtime sessions that run on the requested provider or fail with the reason."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from altogether_rt.errors import AltogetherError, BundleError, MissingDependencyError
from altogether_rt.machine.gpu import DRIVER_LIBRARY
from altogether_rt.machine.limits import available_cores
from altogether_rt.runtime.tiny_onnx import matmul_model

__all__ = [
    "import_onnxruntime",
    "missing_library",
    "open_session",
    "products_saturate",
    "provider_not_loaded",
    "save_optimized",
]

_WARNING, _ERROR = 2, 3
#: What onnxruntime says where the system gives it no memory.
_NO_MEMORY = ("Cannot allocate memory", "bad_alloc", "Failed to allocate memory")


def import_onnxruntime() -> Any:
    """The onnxruntime module. Raises MissingDependencyError if it is not installed.

    Its telemetry is disabled unless the user's environment enables it: since 1.29 the Linux wheels
    report sessions to their vendor, including names and hashes of graphs.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read on import
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("onnxruntime", "cpu", "captioning") from error
    return onnxruntime


@functools.cache
def products_saturate() -> bool:
    """Whether this processor's plain uint8 × int8 kernel adds pairs of products in 16 bits.

    AVX2 without VNNI does, and its captions would differ from those of other machines; onnxruntime
    then offers a slower, exact kernel. This is measured, not looked up in a list of processors.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    inner, outer = 64, 32
    model = matmul_model(np.full((inner, outer), 127, np.int8))
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    exact = 255 * 127 * inner
    rows = (session.run(None, {"x": np.full((m, inner), 255, np.uint8)})[0] for m in (1, 16))
    return any(bool((row != exact).any()) for row in rows)


def open_session(
    path: Path,
    *,
    threads: int | None,
    spin: bool = True,
    provider: str = "CPUExecutionProvider",
    half: bool = False,
    optimized: bool = False,
    profile: Path | None = None,
) -> Any:
    """An InferenceSession for `path`, its external weights mapped into memory.

    spin: whether its idle threads busy-wait. This suits one session with many short runs; each
    session has its own threads, and those of two spinning sessions compete for the cores.
    half: whether the graph computes in float16, on which onnxruntime's layout pass for convolutions
    crashes (1.32, a ViT of open_clip). optimized: whether `save_optimized` wrote the graph.
    profile: prefix of the name of a file that receives the time of each operator (onnxruntime's
    JSON, written when the session ends).

    Raises BundleError if the graph cannot be loaded or runs on another provider.
    """
    ort = import_onnxruntime()
    options = _options(threads)
    if optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return _open(path, options, provider, half)


def save_optimized(path: Path, folder: Path, name: str, *, half: bool = False) -> None:
    """Write the optimised graph, `folder/name.onnx`, and its weights, `folder/name.bin`.

    The file of weights holds them both unpacked and packed for this processor's kernels.

    Raises BundleError if the graph cannot be loaded.
    """
    options = _options()
    options.optimized_model_filepath = str(folder / f"{name}.onnx")
    entries = {
        "session.optimized_model_external_initializers_file_name": f"{name}.bin",
        "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
        "session.save_external_prepacked_constant_initializers": "1",
    }
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    _open(path, options, "CPUExecutionProvider", half)


def _options(threads: int | None = None) -> Any:
    """Options of every session on the CPU."""
    options = import_onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERROR
    if products_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
        # Otherwise it rewrites per-channel DequantizeLinear into nodes that do not run (1.32).
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    return options


def _open(path: Path, options: Any, provider: str, half: bool) -> Any:
    ort = import_onnxruntime()
    try:
        session = ort.InferenceSession(
            str(path),
            options,
            providers=[provider],
            disabled_optimizers=["NchwcTransformer"] if half else None,
            enable_fallback=0,  # it would try the same again, and print so among rows on stdout
        )
    except Exception as error:  # onnxruntime's exceptions share no public base
        first_line = (str(error).splitlines() or [""])[0]
        if isinstance(error, MemoryError) or any(text in first_line for text in _NO_MEMORY):
            raise AltogetherError(
                f"{path} needs more memory than this process may use: close other programs, or "
                "choose a smaller captioner."
            ) from error
        raise BundleError(
            f"onnxruntime cannot load {path} ({first_line}): export it again."
        ) from error
    running = session.get_providers()[0]
    if running != provider:
        raise BundleError(f"{path} should run on {provider}, but onnxruntime chose {running}.")
    return session


def provider_not_loaded(provider: str, library: str | None) -> AltogetherError:
    """The error for a provider that did not load; there is no fallback to the CPU."""
    if library is None:
        return AltogetherError(
            f"onnxruntime could not start {provider}: check that the driver's CUDA version (see "
            "altogether-rt doctor) is at least the one that onnxruntime was built for."
        )
    if library == DRIVER_LIBRARY:
        return AltogetherError(
            f"onnxruntime could not start {provider}: there is no NVIDIA driver ({library} cannot "
            "be loaded): install it."
        )
    package = "tensorrt" if library.startswith("libnv") else "'onnxruntime-gpu[cuda,cudnn]'"
    return AltogetherError(
        f"onnxruntime could not start {provider}: {library} is missing. Run pip install {package}."
    )


def missing_library(ort: Any, provider: str) -> str | None:
    """The first shared library that a provider needs and the loader cannot find, or None.

    It is tried in another process, since loading a provider by itself can crash.
    """
    kind = "tensorrt" if provider.startswith("Tensorrt") else "cuda"
    path = Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{kind}.so"
    code = (
        "import ctypes, sys, onnxruntime\n"
        "getattr(onnxruntime, 'preload_dlls', lambda: None)()\n"
        "ctypes.CDLL(sys.argv[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60
    )
    found = re.search(r"OSError: (\S+): cannot open shared object file", done.stderr)
    return None if found is None else Path(found[1]).name
