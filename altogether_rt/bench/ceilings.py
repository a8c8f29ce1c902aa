"""The best rates of this machine, measured in the same run as the bundle.

Nothing is taken from a data sheet: clock rates, other tenants and thread limits change the ceiling
as much as they change the result, which a figure from another day would hide.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from altogether_rt.bench.timing import measure
from altogether_rt.machine.limits import available_cores
from altogether_rt.runtime.ort_session import import_onnxruntime
from altogether_rt.runtime.tiny_onnx import matmul_model

__all__ = ["Ceilings", "measure_ceilings"]

#: (M, K, N) of the matrix product: a prefill of 1024 tokens through the widest layer of OPT-1.3B.
GEMM_SHAPE = (1024, 2048, 8192)
#: Several times the size of any last-level cache, so that memory is measured.
COPY_BYTES = 512 << 20


@dataclass(frozen=True)
class Ceilings:
    """Best rates of this machine with `threads` threads."""

    threads: int
    int8_per_s: float  # multiply-adds of int8 matrix products, counted as two operations each
    fp32_per_s: float  # the same in float32
    bytes_per_s: float  # memory bandwidth: read + written by a copy, or only read if that is more


def measure_ceilings(threads: int | None = None, *, quick: bool = False) -> Ceilings:
    """Measure with `threads` threads (all cores if None): a few seconds; `quick`: about two.

    Both use the same sizes: smaller ones are slower, and would flatter what is compared with them.
    The best of several runs counts: a ceiling is what can be reached, not what is typical.
    """
    threads = threads or available_cores()
    rng = np.random.default_rng(0)
    rows, inner, outer = GEMM_SHAPE
    budget_s = 0.1 if quick else 1.0
    rates = {}
    for name in ("int8", "fp32"):
        inputs, weight = _operands(name, rng, rows, inner, outer)
        multiply = _multiplier(weight, inputs, threads)
        rates[name] = 2 * rows * inner * outer / min(measure(multiply, budget_s=budget_s).times_s)
    bandwidth = _bandwidth(threads, COPY_BYTES, budget_s)
    return Ceilings(threads, rates["int8"], rates["fp32"], bandwidth)


def _operands(
    name: str, rng: np.random.Generator, rows: int, inner: int, outer: int
) -> tuple[NDArray[np.uint8] | NDArray[np.float32], NDArray[np.int8] | NDArray[np.float32]]:
    if name == "int8":
        return (
            rng.integers(0, 256, (rows, inner), np.uint8),
            rng.integers(-127, 128, (inner, outer), np.int8),
        )
    return (
        rng.standard_normal((rows, inner), np.float32),
        rng.standard_normal((inner, outer), np.float32),
    )


def _multiplier(weight: Any, inputs: Any, threads: int) -> Callable[[], object]:
    """Runs `inputs @ weight` in ONNX Runtime with its default options, not those of our sessions: a
    ceiling must not be lowered by our own choices."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(
        matmul_model(weight), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"x": inputs})


def _bandwidth(threads: int, size_bytes: int, budget_s: float) -> float:
    """Bytes per second, the higher of copying and reading; each thread has its own part."""
    source = np.ones(size_bytes // 8, np.float32)  # source and target fill size_bytes
    target = np.empty_like(source)
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        copying = measure(
            lambda: list(pool.map(lambda part: np.copyto(part[1], part[0]), parts)),
            budget_s=budget_s,
        )
        reading = measure(
            lambda: list(pool.map(lambda part: part[0].max(), parts)), budget_s=budget_s
        )
    return max(2 * source.nbytes / min(copying.times_s), source.nbytes / min(reading.times_s))
