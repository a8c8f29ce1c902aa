"""A runtime whose calls are made by a thread of its own, so that steps can be begun ahead.

For backends whose calls wait for the device, such as onnxruntime when it replays a captured graph.
Waiting releases Python's lock: meanwhile the caller reads the tokens of the step before and
prepares the next one. The thread fills in the tokens that the caller did not know.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from altogether_rt.runtime.base import (
    UNDECIDED,
    Array,
    Runtime,
    Sampling,
    StepBatch,
    StepResult,
)
from altogether_rt.runtime.pipelined import ChosenTokens

__all__ = ["AheadRuntime"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class _PendingResult:
    """Implements `PendingStep`."""

    future: Future[StepResult]

    def result(self) -> StepResult:
        return self.future.result()


class AheadRuntime:
    """Implements `PipelinedRuntime` around a runtime that cannot begin steps itself.

    Every call goes through one thread, in the order of the calls, so `runtime` needs to be safe for
    no more than that; what has to hold for a thread, such as which GPU is current, holds for it.
    Tokens are drawn by `runtime`, if it does so. Otherwise those that are not greedy are left to
    the caller.
    """

    def __init__(self, open_runtime: Callable[[], Runtime]) -> None:
        """open_runtime: called in the thread. Raises what it raises."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="runtime")
        self._closed = False
        self._failure: BaseException | None = None  # of a slot that was to be moved
        try:
            self._runtime = self._call(open_runtime)
        except BaseException:
            self._thread.shutdown()
            raise
        self.num_slots: Final = self._runtime.num_slots
        self.capacity: Final = self._runtime.capacity
        self.max_chunk: Final = self._runtime.max_chunk
        self.prefill_tokens: Final = self._runtime.prefill_tokens
        self.token_width: Final = self._runtime.token_width
        self.device: Final = self._runtime.device

    def encode(self, pixels: NDArray[np.uint8]) -> Array:
        """See `Runtime.encode`."""
        return self._call(self._runtime.encode, pixels)

    def map(self, embeddings: Array) -> Array:
        """See `Runtime.map`."""
        return self._call(self._runtime.map, embeddings)

    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        """See `Runtime.step`."""
        return self._call(self._step, batch, want_logits)

    def _step(self, batch: StepBatch, want_logits: bool) -> StepResult:
        if self._failure is not None:
            raise self._failure
        return self._runtime.step(batch, want_logits)

    def begin(self, batch: StepBatch, chosen: ChosenTokens | None = None) -> _PendingResult:
        """`step` without waiting; see `PipelinedRuntime.begin`."""
        owned = _copy(batch)  # the thread reads it after this has returned
        return _PendingResult(self._thread.submit(self._run, owned, chosen))

    def _run(self, batch: StepBatch, chosen: ChosenTokens | None) -> StepResult:
        """A step, in the thread: what it takes from the step before has been computed."""
        if chosen is not None:
            before = chosen.step.result()
            ids = before.greedy_ids if before.sampled_ids is None else before.sampled_ids
            batch.token_ids[chosen.index] = np.maximum(ids[chosen.choices], 0)  # UNDECIDED: any
        result = self._step(batch, want_logits=batch.sampling is not None)
        if batch.sampling is None or result.sampled_ids is not None:
            return result
        greedy = batch.sampling.temperatures <= 0
        return replace(result, sampled_ids=np.where(greedy, result.greedy_ids, UNDECIDED))

    def move_slot(self, src: int, dst: int, length: int) -> None:
        """See `Runtime.move_slot`. It is not waited for: the next step raises what it raises."""
        self._thread.submit(self._move, src, dst, length)

    def _move(self, src: int, dst: int, length: int) -> None:
        try:
            self._runtime.move_slot(src, dst, length)
        except BaseException as error:
            self._failure = error
            raise

    def close(self) -> None:
        """Finish what was begun, close the runtime, and end the thread."""
        if self._closed:
            return
        self._closed = True
        try:
            self._call(self._runtime.close)
        finally:
            self._thread.shutdown()

    def __enter__(self) -> AheadRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return self._thread.submit(function, *args, **kwargs).result()


def _copy(batch: StepBatch) -> StepBatch:
    """`batch` with arrays of its own, but for visual tokens, which are large."""
    drawn = batch.sampling
    if drawn is not None:
        drawn = Sampling(drawn.uniforms.copy(), drawn.temperatures.copy(), drawn.top_ps.copy())
    return StepBatch(
        token_ids=batch.token_ids.copy(),
        query_lengths=batch.query_lengths.copy(),
        past_lengths=batch.past_lengths.copy(),
        visual_tokens=batch.visual_tokens,
        visual_index=batch.visual_index.copy(),
        logit_index=batch.logit_index.copy(),
        sampling=drawn,
    )
