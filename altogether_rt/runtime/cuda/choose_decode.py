"""Which graph takes decode steps: both are run on this GPU when a bundle is opened.

Speed depends on the GPU, on the version of what executes the graphs, and on the number of rows, so
it is measured and not looked up. The graph of decode steps is used if it chooses what the other
graph chooses and is faster.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from altogether_rt.errors import AltogetherError
from altogether_rt.runtime.base import StepBatch, StepResult, StepRow
from altogether_rt.runtime.cuda.runtime import DeviceRuntime

__all__ = ["DecodeChoice", "choose_decode"]

#: Least cosine between the logits of both graphs, of any row; float16 gives 0.9999 and better.
_MIN_COSINE = 0.999
#: Runs that settle kernels, memory and captured graphs; then as many that are timed.
_WARM_UPS, _TIMED = 4, 5
#: Tokens in each slot while it is measured, and how many the shortest has fewer.
_PAST, _RAGGED = 64, 7


@dataclass(frozen=True)
class DecodeChoice:
    """What was found; `__str__` is a sentence for logs and reports."""

    used: bool
    reason: str

    def __str__(self) -> str:
        graph = "the graph of decode steps" if self.used else "the graph of all steps"
        return f"{graph} ({self.reason})"


class Clock(Protocol):
    """Seconds, as `time.perf_counter`."""

    def __call__(self) -> float: ...


def choose_decode(runtime: DeviceRuntime, now: Clock = time.perf_counter) -> DecodeChoice:
    """Run decode steps by both graphs, and let `runtime` use the better one; slots end up empty.

    A graph that is not used is released with the weights that it has on the GPU.
    """
    decoder = runtime.decoder
    if not decoder.has_decode:
        return DecodeChoice(False, "the bundle has no other that this software takes")
    try:
        choice = _try_both(runtime, now)
    except AltogetherError:  # CUDA itself failed: nothing can be captioned here
        raise
    except Exception as error:  # onnxruntime's exceptions share no public base
        first_line = (str(error).splitlines() or [""])[0]
        choice = DecodeChoice(False, f"the other fails: {first_line}")
    if not choice.used:
        decoder.release_decode()
    decoder.forget()
    return choice


def _try_both(runtime: DeviceRuntime, now: Clock) -> DecodeChoice:
    runtime.decoder.use_decode = False  # what it writes is not trusted yet
    rows = runtime.num_slots
    most = min(_PAST, runtime.max_chunk, runtime.capacity - 1)
    lengths = [max(1, most - row % _RAGGED) for row in range(rows)]
    for first in range(0, rows, _prompts_a_step(runtime, max(lengths))):
        last = min(rows, first + _prompts_a_step(runtime, max(lengths)))
        held = [StepRow([3], length - 1) for length in lengths[:first]]  # written again, the same
        prompts = [StepRow(_ids(row, lengths[row])) for row in range(first, last)]
        runtime.step(StepBatch.from_rows([*held, *prompts], runtime.token_width))
    batch = StepBatch.from_rows(
        [StepRow([5 + row % 50], length) for row, length in enumerate(lengths)],
        runtime.token_width,
    )
    results: dict[bool, StepResult] = {}
    seconds: dict[bool, float] = {}
    for used in (False, True):
        runtime.decoder.use_decode = used
        results[used] = runtime.step(batch, want_logits=True)
        times = []
        for _ in range(_WARM_UPS + _TIMED):
            start = now()
            runtime.step(batch)
            times.append(now() - start)
        seconds[used] = median(times[_WARM_UPS:])
    cosine = _least_cosine(results[False].logits, results[True].logits)
    if not cosine >= _MIN_COSINE:  # NaN too
        return DecodeChoice(False, f"the other disagrees: cosine {cosine:.5f}")
    figures = f"{1e3 * seconds[True]:.2f} ms instead of {1e3 * seconds[False]:.2f} for {rows} rows"
    return DecodeChoice(seconds[True] < seconds[False], figures)


def _prompts_a_step(runtime: DeviceRuntime, longest: int) -> int:
    return max(1, runtime.prefill_tokens // longest)


def _ids(row: int, length: int) -> list[int]:
    """Some token ids, none of them special; the last one is 3, as if it were decoded again."""
    return [3 + (7 * row + 13 * index) % 50 for index in range(length - 1)] + [3]


def _least_cosine(a: NDArray[np.float32] | None, b: NDArray[np.float32] | None) -> float:
    """Of any row, without the mean of each, which softmax ignores."""
    assert a is not None and b is not None
    x, y = (logits.astype(np.float64) for logits in (a, b))
    x, y = (v - v.mean(axis=-1, keepdims=True) for v in (x, y))
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    return float(((x * y).sum(axis=-1) / np.maximum(norms, np.finfo(np.float64).tiny)).min())
