"""New prompts by a graph of their own: rows whose slots are empty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from altogether_rt.artifacts.manifest import TensorSpec
from altogether_rt.runtime.base import StepBatch
from altogether_rt.runtime.cuda.api import Cuda, HostBuffer
from altogether_rt.runtime.cuda.graph import DeviceContext, DeviceGraph, Tensor
from altogether_rt.runtime.cuda.memory_plan import (
    CacheLayout,
    DecoderMemory,
    cache_tensors,
    input_layout,
    layout_bytes,
    tensor_shape,
)
from altogether_rt.runtime.cuda.step_inputs import padded_inputs, write_inputs
from altogether_rt.runtime.cuda.step_sizes import (
    DecoderProfile,
    PlannedCall,
    bucket_of,
    sizes_of,
)

__all__ = ["PromptStep"]

_LONGEST = "longest"


class PromptStep:
    """Runs the graph that `export.decoder.build_prompts` writes, in the decoder's memory.

    It writes keys and values from the start of each slot on, so it is given no row of padding: that
    would be a slot that may hold tokens. A row's own padding lies behind its prompt, where the next
    tokens overwrite it. Inputs and results share the regions of the other graph's, as all run on
    one stream, one after the other.
    """

    def __init__(
        self,
        cuda: Cuda,
        graph: DeviceGraph,
        specs: Sequence[TensorSpec],
        profile: DecoderProfile,
        cache: CacheLayout,
        memory: DecoderMemory,
        vocab_size: int,
        stream: int,
    ) -> None:
        """specs: the graph's inputs without the cache. profile: limits of calls, for which the
        regions have room."""
        self._cuda = cuda
        self._context: DeviceContext = graph.context(profile.index, memory.scratch, stream)
        kept = set(graph.tensor_names) - {_LONGEST}
        self._specs = [spec for spec in specs if spec.name in kept]
        self._profile = profile
        self._cache = cache
        self._memory = memory
        self._vocab_size = vocab_size
        self._stream = stream
        self._longest = np.zeros(1, np.int32)  # read while a run is enqueued

    def takes(self, batch: StepBatch, start: int) -> PlannedCall | None:
        """A call with all rows of a step from `start` on; None if it cannot take them.

        It takes rows that bring at least one token each, to slots that are empty.
        """
        rows = len(batch.query_lengths) - start
        if rows < 1 or batch.past_lengths[start:].any() or (batch.query_lengths[start:] < 1).any():
            return None
        sizes = sizes_of(batch, start)
        bucket = bucket_of(sizes, self._profile, reach=0, max_rows=rows)
        if bucket is None or bucket.rows != rows:
            return None
        return PlannedCall(start, start + rows, self._profile, bucket)

    def run(
        self, host_inputs: HostBuffer, host_ids: HostBuffer, batch: StepBatch, call: PlannedCall
    ) -> None:
        """Enqueue a call that `takes` gave, its inputs' upload and its ids' download."""
        cuda, memory, bucket, stream = self._cuda, self._memory, call.bucket, self._stream
        none_held = np.zeros(call.last, np.int32)  # nothing is padded with other slots
        arrays = padded_inputs(batch, call, none_held)
        write_inputs(host_inputs.array, self._specs, bucket, arrays)
        cuda.upload(memory.inputs, host_inputs, 0, layout_bytes(self._specs, bucket), stream)
        self._bind(call)
        self._context.run(stream)
        cuda.download(host_ids, 0, memory.greedy_ids, 8 * bucket.wanted, stream)

    def _bind(self, call: PlannedCall) -> None:
        bucket, memory = call.bucket, self._memory
        layout = input_layout(self._specs, bucket)
        inputs = {
            spec.name: Tensor(memory.inputs + layout[spec.name].offset, tensor_shape(spec, bucket))
            for spec in self._specs
        }
        self._longest[0] = bucket.chunk
        inputs[_LONGEST] = Tensor(self._longest.ctypes.data, (1,), on_host=True)
        outputs = {
            "greedy_ids": Tensor(memory.greedy_ids, (bucket.wanted,)),
            "logits": Tensor(memory.logits, (bucket.wanted, self._vocab_size)),
        }
        cache = cache_tensors(self._cache, memory.cache, call.first, bucket.rows)
        self._context.bind(
            inputs | {f"past_{name}": tensor for name, tensor in cache.items()},
            outputs | {f"present_{name}": tensor for name, tensor in cache.items()},
        )
