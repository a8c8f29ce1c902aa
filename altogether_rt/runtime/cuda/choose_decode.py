"""Which graphs take decode steps and prompts, and whether tokens are drawn from what the GPU finds:
all of them are run on it when a bundle is opened.

Speed depends on the GPU, on the version of what executes the graphs, and on the number of rows, so
it is measured and not looked up. A graph that takes only some steps is used if it chooses what the
graph of all steps chooses, leaves what that one can go on with, and is faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from altogether_rt.errors import AltogetherError
from altogether_rt.runtime.base import StepBatch, StepRow
from altogether_rt.runtime.cuda.runtime import DeviceRuntime

__all__ = ["GraphChoice", "choose_decode", "choose_draws", "choose_graphs", "choose_prompts"]

#: Least cosine between the logits of both graphs, of any row; float16 gives 0.9999 and better.
_MIN_COSINE = 0.999
#: Runs that settle kernels, memory and captured graphs; then as many that are timed.
_WARM_UPS, _TIMED = 4, 5
#: The same of prompts, of which nothing is captured.
_PROMPT_WARM_UPS, _TIMED_PROMPTS = 1, 3
#: Tokens in each slot while it is measured, and how many the shortest has fewer.
_PAST, _RAGGED = 64, 7
#: Rows whose likeliest tokens are compared.
_DRAWN_ROWS = 8
#: Visual tokens of each prompt: a call that has some is not captured, as those of captions are not.
_VISUAL = 2
#: Prompt tokens of a step while prompts are measured: a graph keeps the memory of its largest step.
_PROMPT_TOKENS = 2048

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class GraphChoice:
    """What was found; `__str__` is a sentence for logs and reports."""

    kind: str  # "decode steps", "prompts", "likeliest tokens"
    used: bool
    reason: str
    otherwise: str = "the graph of all steps"

    def __str__(self) -> str:
        graph = f"the graph of {self.kind}" if self.used else self.otherwise
        return f"{graph} ({self.reason})"


class Clock(Protocol):
    """Seconds, as `time.perf_counter`."""

    def __call__(self) -> float: ...


def choose_graphs(runtime: DeviceRuntime) -> tuple[GraphChoice, ...]:
    """All of the following."""
    return choose_prompts(runtime), choose_decode(runtime), choose_draws(runtime)


def choose_prompts(runtime: DeviceRuntime, now: Clock = time.perf_counter) -> GraphChoice:
    """Run prompts by both graphs, and let `runtime` use the better one; slots end up empty."""
    decoder = runtime.decoder
    return _choose(
        runtime,
        "prompts",
        decoder.has_prompts,
        decoder.release_prompts,
        lambda: _try_prompts(runtime, now),
    )


def choose_decode(runtime: DeviceRuntime, now: Clock = time.perf_counter) -> GraphChoice:
    """The same of decode steps, behind prompts by the graph that was chosen for those."""
    decoder = runtime.decoder
    return _choose(
        runtime,
        "decode steps",
        decoder.has_decode,
        decoder.release_decode,
        lambda: _try_decode(runtime, now),
    )


def choose_draws(runtime: DeviceRuntime) -> GraphChoice:
    """Compare what tokens are drawn from on the GPU with what the host makes of the same logits."""
    reader = runtime.decoder.reader
    choice = _choose(
        runtime,
        "likeliest tokens",
        reader.candidates is not None,
        reader.release_candidates,
        lambda: _try_draws(runtime),
    )
    return replace(choice, otherwise="all logits")


def _choose(
    runtime: DeviceRuntime,
    kind: str,
    there: bool,
    release: Callable[[], None],
    attempt: Callable[[], tuple[bool, str]],
) -> GraphChoice:
    """A graph that is not used is released."""
    if not there:
        return GraphChoice(kind, False, "there is no other that this software takes")
    try:
        choice = GraphChoice(kind, *attempt())
    except AltogetherError:  # CUDA itself failed: nothing can be captioned here
        raise
    except Exception as error:  # onnxruntime's exceptions share no public base
        first_line = (str(error).splitlines() or [""])[0]
        choice = GraphChoice(kind, False, f"the other fails: {first_line}")
    if not choice.used:
        release()
    runtime.decoder.use_decode = True
    runtime.decoder.forget()
    return choice


def _try_prompts(runtime: DeviceRuntime, now: Clock) -> tuple[bool, str]:
    decoder = runtime.decoder
    longest = _longest(runtime)
    rows = min(runtime.num_slots, max(1, min(_PROMPT_TOKENS, runtime.prefill_tokens) // longest))
    lengths = _lengths(rows, longest)
    width, rng = runtime.token_width, np.random.default_rng(0)
    visual = rng.normal(0, 0.02, (rows, _VISUAL, width)).astype(np.float32)
    prompts = [
        StepRow(_ids(row, max(1, length - _VISUAL)), 0, visual[row])
        for row, length in enumerate(lengths)
    ]
    lengths = [max(1, length - _VISUAL) + _VISUAL for length in lengths]
    batch = StepBatch.from_rows(prompts, runtime.token_width)
    after = _next_tokens(runtime, lengths)
    decoder.use_decode = False  # what follows is computed by the graph of all steps
    logits: dict[bool, list[Logits]] = {}
    seconds: dict[bool, float] = {}
    for used in (False, True):
        decoder.forget()  # what the other one wrote is not read
        decoder.use_prompts = used
        logits[used] = [_logits(runtime, batch), _logits(runtime, after)]
        seconds[used] = _median_seconds(runtime, batch, now, _PROMPT_WARM_UPS, _TIMED_PROMPTS)
    return _verdict(logits, seconds, f"{rows} prompts")


def _try_decode(runtime: DeviceRuntime, now: Clock) -> tuple[bool, str]:
    decoder = runtime.decoder
    decoder.use_decode = False  # what it writes is not trusted yet
    rows = runtime.num_slots
    lengths = _lengths(rows, _longest(runtime))
    a_step = max(1, runtime.prefill_tokens // max(lengths))
    for first in range(0, rows, a_step):
        last = min(rows, first + a_step)
        held = [StepRow([3], length - 1) for length in lengths[:first]]  # written again, the same
        prompts = [StepRow(_ids(row, lengths[row])) for row in range(first, last)]
        runtime.step(StepBatch.from_rows([*held, *prompts], runtime.token_width))
    batch = _next_tokens(runtime, lengths)
    logits: dict[bool, list[Logits]] = {}
    seconds: dict[bool, float] = {}
    for used in (False, True):
        decoder.use_decode = used
        logits[used] = [_logits(runtime, batch)]
        seconds[used] = _median_seconds(runtime, batch, now, _WARM_UPS, _TIMED)
    return _verdict(logits, seconds, f"{rows} rows")


def _try_draws(runtime: DeviceRuntime) -> tuple[bool, str]:
    candidates = runtime.decoder.reader.candidates
    assert candidates is not None
    rows = min(runtime.num_slots, _DRAWN_ROWS)
    prompts = [StepRow(_ids(row, 5)) for row in range(rows)]
    logits = _logits(runtime, StepBatch.from_rows(prompts, runtime.token_width))
    temperatures = np.linspace(0.2, 1.2, rows)
    found = candidates.find(temperatures)
    largest = np.partition(logits, -candidates.count, axis=-1)[:, -candidates.count :]
    wanted = np.sort(largest, axis=-1), np.sort(found.values, axis=-1)
    in_range = ((found.ids >= 0) & (found.ids < logits.shape[1])).all()
    same = in_range and np.array_equal(*wanted)
    same = same and np.array_equal(np.take_along_axis(logits, found.ids, -1), found.values)
    same = same and (np.diff(np.sort(found.ids, axis=-1), axis=-1) > 0).all()  # none twice
    below = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    totals = np.exp(below / temperatures[:, None]).sum(axis=-1)
    if not same or not np.allclose(found.totals, totals, rtol=1e-9, atol=0):
        return False, "the GPU finds others"
    return True, f"{candidates.count} of {logits.shape[1]}, as on the host"


def _verdict(
    logits: dict[bool, list[Logits]], seconds: dict[bool, float], what: str
) -> tuple[bool, str]:
    """Whether the graph under trial is used, and why."""
    pairs = zip(logits[False], logits[True], strict=True)
    cosine = float(np.min([_least_cosine(a, b) for a, b in pairs]))
    if not cosine >= _MIN_COSINE:  # NaN too
        return False, f"the other disagrees: cosine {cosine:.5f}"
    figures = f"{1e3 * seconds[True]:.2f} ms instead of {1e3 * seconds[False]:.2f} for {what}"
    return seconds[True] < seconds[False], figures


def _median_seconds(
    runtime: DeviceRuntime, batch: StepBatch, now: Clock, warm_ups: int, timed: int
) -> float:
    times = []
    for _ in range(warm_ups + timed):
        start = now()
        runtime.step(batch)
        times.append(now() - start)
    return median(times[warm_ups:])


def _logits(runtime: DeviceRuntime, batch: StepBatch) -> Logits:
    logits = runtime.step(batch, want_logits=True).logits
    assert logits is not None
    return logits


def _longest(runtime: DeviceRuntime) -> int:
    return min(_PAST, runtime.max_chunk, runtime.capacity - 1)


def _lengths(rows: int, longest: int) -> list[int]:
    return [max(1, longest - row % _RAGGED) for row in range(rows)]


def _next_tokens(runtime: DeviceRuntime, lengths: list[int]) -> StepBatch:
    """A token for each row, behind those that its slot holds."""
    rows = [StepRow([5 + row % 50], length) for row, length in enumerate(lengths)]
    return StepBatch.from_rows(rows, runtime.token_width)


def _ids(row: int, length: int) -> list[int]:
    """Some token ids, none of them special; the last one is 3, as if it were decoded again."""
    return [3 + (7 * row + 13 * index) % 50 for index in range(length - 1)] + [3]


def _least_cosine(a: Logits, b: Logits) -> float:
    """Of any row, without the mean of each, which softmax ignores."""
    x, y = (logits.astype(np.float64) for logits in (a, b))
    x, y = (v - v.mean(axis=-1, keepdims=True) for v in (x, y))
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    return float(((x * y).sum(axis=-1) / np.maximum(norms, np.finfo(np.float64).tiny)).min())
