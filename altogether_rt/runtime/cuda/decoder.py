"""Decoder steps on a GPU: one upload, one execution, one download of token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from altogether_rt.artifacts.manifest import TensorSpec
from altogether_rt.runtime.base import StepBatch, StepResult
from altogether_rt.runtime.cuda.api import Cuda
from altogether_rt.runtime.cuda.decode_step import DecodeStep
from altogether_rt.runtime.cuda.graph import DeviceContext, DeviceGraph, Tensor
from altogether_rt.runtime.cuda.memory_plan import (
    CacheLayout,
    DecoderMemory,
    cache_tensors,
    input_layout,
    layout_bytes,
    tensor_shape,
)
from altogether_rt.runtime.cuda.prompt_step import PromptStep
from altogether_rt.runtime.cuda.sampling.reader import LogitReader, joined_results, part_of
from altogether_rt.runtime.cuda.step_inputs import logit_rows, padded_inputs, write_inputs
from altogether_rt.runtime.cuda.step_sizes import DecoderProfile, PlannedCall, StepSizes, plan_calls

__all__ = ["DeviceDecoder"]

_IDS, _LOGITS = "greedy_ids", "logits"
#: Maximum number of captured graphs, each with its own context (a few MB of host memory).
_MAX_GRAPHS = 32


#: What a context is bound to: index of the profile, first slot, sizes.
_Key = tuple[int, int, StepSizes]
#: Enqueues a call: its inputs' upload, its run, and the download of its ids.
_Run = Callable[[StepBatch, PlannedCall], None]


@dataclass(frozen=True)
class _Prepared:
    """Runs calls of one bucket: a context bound to it and, if captured, a graph of its run."""

    context: DeviceContext
    graph: int | None = None


class DeviceDecoder:
    """Runs steps on one stream.

    The inputs of a call are contiguous in pinned memory and uploaded by one copy; `past` and
    `present` of a layer have the same address, so the cache is updated in place. Calls without
    prompts are captured as a CUDA graph the second time their bucket occurs, each with its own
    context, as TensorRT requires; all contexts share their scratch memory, because they run one
    after the other. A graph that must not be captured by the caller (onnxruntime does so itself)
    is run directly.
    """

    def __init__(
        self,
        cuda: Cuda,
        graph: DeviceGraph,
        profiles: Sequence[DecoderProfile],
        specs: Sequence[TensorSpec],
        cache: CacheLayout,
        memory: DecoderMemory,
        vocab_size: int,
        stream: int,
        decode: DeviceGraph | None = None,
        prompts: tuple[DeviceGraph, Sequence[TensorSpec]] | None = None,
    ) -> None:
        """specs: the graph's inputs without the cache. Compiling may have removed some: those are
        not bound. decode: a graph of steps of one token a row, on the same stream. prompts: a graph
        of new prompts there, and its inputs."""
        self._cuda = cuda
        self._graph = graph
        self._profiles = profiles
        kept = set(graph.tensor_names)
        self._specs = [spec for spec in specs if spec.name in kept]
        self._cache = cache
        self._memory = memory
        self._vocab_size = vocab_size
        self._stream = stream
        self._held = np.zeros(
            cache.num_slots, np.int32
        )  # (slots,) number of tokens that each slot may hold
        self._contexts: dict[int, DeviceContext] = {}  # by profile
        self._bound: dict[int, _Key] = {}  # by profile: the call that its context is bound to
        self._prepared: dict[_Key, _Prepared] = {}
        self._seen: set[_Key] = set()
        self._host_inputs = cuda.host_alloc(
            max(layout_bytes(self._specs, profile.max_sizes) for profile in profiles)
        )
        self._host_ids = cuda.host_alloc(8 * max(p.max_sizes.wanted for p in profiles))
        self.reader = LogitReader(cuda, memory.logits, vocab_size, stream)
        self._decode: DecodeStep | None = None
        if decode is not None:
            self._decode = DecodeStep(cuda, decode, cache, memory, vocab_size, stream, self.reader)
        self._prompts: PromptStep | None = None
        if prompts is not None:
            graph, inputs = prompts
            limits = profiles[-1]
            self._prompts = PromptStep(
                cuda, graph, inputs, limits, cache, memory, vocab_size, stream
            )
        self.use_decode = self.use_prompts = True  # the other graphs, where there are any
        cuda.clear(
            memory.cache, cache.nbytes, self._stream
        )  # a NaN in unused memory would stay NaN under the mask
        cuda.synchronize(self._stream)

    def step(self, batch: StepBatch, want_logits: bool) -> StepResult:
        """See `Runtime.step`."""
        rows = len(batch.query_lengths)
        decoded = 0
        if self._decode is not None and self.use_decode:
            decoded = self._decode.takes(batch)
        if self._decode is not None and decoded:
            result = self._decode.step(batch, decoded, self._held, want_logits)
            if decoded < rows:  # beside prompts, they would be padded to the longest one
                self._held[:decoded] = batch.past_lengths[:decoded] + 1
                rest = self._planned_step(batch, want_logits, decoded)
                result = joined_results([result, rest], np.arange(len(batch.logit_index)))
        else:
            result = self._planned_step(batch, want_logits)
        # Tokens of a slot beyond this length were rejected drafts: they may be overwritten.
        self._held[:rows] = batch.past_lengths + batch.query_lengths
        return result

    def _planned_step(self, batch: StepBatch, want_logits: bool, start: int = 0) -> StepResult:
        """The rows of a step from `start` on, by the graph that takes any."""
        results, choices = [], []
        for run, call in self._calls(batch, start):
            choices.append(logit_rows(batch, call))
            run(batch, call)
            self._cuda.synchronize(self._stream)
            greedy_ids = self._host_ids.array.view(np.int64)[: len(choices[-1])].copy()
            sampling = part_of(batch.sampling, choices[-1])
            results.append(self.reader.result(greedy_ids, want_logits, sampling))
        return joined_results(results, np.concatenate(choices))

    def _calls(self, batch: StepBatch, start: int) -> list[tuple[_Run, PlannedCall]]:
        """What runs the rows of a step from `start` on."""
        prompts = self._prompts if self.use_prompts else None
        call = None if prompts is None else prompts.takes(batch, start)
        if prompts is not None and call is not None:
            return [(partial(prompts.run, self._host_inputs, self._host_ids), call)]
        planned = plan_calls(batch, self._held, self._profiles, start)
        return [(self._run, call) for call in planned]

    @property
    def has_decode(self) -> bool:
        """Whether there is a graph of decode steps."""
        return self._decode is not None

    @property
    def has_prompts(self) -> bool:
        """Whether there is a graph of new prompts."""
        return self._prompts is not None

    def release_decode(self) -> None:
        """Free the graph of decode steps; the one of all steps takes them from now on."""
        self._cuda.synchronize(self._stream)
        if self._decode is not None:
            self._decode.close()
            self._decode = None

    def release_prompts(self) -> None:
        """Free the graph of new prompts; the one of all steps takes them from now on."""
        self._cuda.synchronize(self._stream)
        self._prompts = None

    def forget(self) -> None:
        """All slots are empty again, and their memory is zero."""
        self._cuda.clear(self._memory.cache, self._cache.nbytes, self._stream)
        self._held[:] = 0

    @property
    def max_chunk(self) -> int:
        """Maximum tokens of one row in one step."""
        return max(profile.max_sizes.chunk for profile in self._profiles)

    def move_slot(self, src: int, dst: int) -> None:
        """Copy slot `src` over slot `dst`; the next step follows on the same stream.

        The whole slot is copied by one call, which is faster than a call for each used part.
        """
        cache = self._cache
        base = self._memory.cache
        self._cuda.copy_columns(
            base + cache.offset(0, 0, dst),
            base + cache.offset(0, 0, src),
            cache.pitch,
            cache.slot_bytes,
            cache.num_blocks,
            self._stream,
        )
        self._held[dst] = self._held[src]

    def close(self) -> None:
        """Wait for the stream and free contexts, graphs and host memory."""
        self._cuda.synchronize(self._stream)
        for prepared in self._prepared.values():
            if prepared.graph is not None:
                self._cuda.destroy_graph(prepared.graph)
        self._prepared.clear()
        self._contexts.clear()
        self._prompts = None
        if self._decode is not None:
            self._decode.close()
        self.reader.close()
        for buffer in (self._host_inputs, self._host_ids):
            self._cuda.host_free(buffer)

    def _run(self, batch: StepBatch, call: PlannedCall) -> None:
        arrays = padded_inputs(batch, call, self._held)
        write_inputs(self._host_inputs.array, self._specs, call.bucket, arrays)
        prepared = self._prepared.get(_key(call)) or self._prepare(call)
        if prepared.graph is not None:
            self._cuda.launch(prepared.graph, self._stream)
        else:
            self._enqueue(call, prepared.context)

    def _prepare(self, call: PlannedCall) -> _Prepared:
        """The profile's context bound to `call`, or a captured graph if such a call came before."""
        key, index = _key(call), call.profile.index
        plain = call.first == 0 and call.bucket.visual == call.profile.min_sizes.visual
        if plain and key in self._seen and len(self._prepared) < _MAX_GRAPHS:
            self._prepared[key] = self._capture(call)
            return self._prepared[key]
        if plain:
            self._seen.add(key)
        if index not in self._contexts:
            self._contexts[index] = self._new_context(call.profile)
        if self._bound.get(index) != key:
            self._bind(self._contexts[index], call)
            self._bound[index] = key
        return _Prepared(self._contexts[index])

    def _capture(self, call: PlannedCall) -> _Prepared:
        """A new context, run once to settle its sizes, then captured.

        The first run is already this call; running it again writes the same values to the cache.
        """
        context = self._new_context(call.profile, dedicated=True)
        self._bind(context, call)
        self._enqueue(call, context)
        self._cuda.synchronize(self._stream)
        if not context.capturable(self._stream):
            return _Prepared(context)
        self._cuda.begin_capture(self._stream)
        self._enqueue(call, context)
        return _Prepared(context, self._cuda.end_capture(self._stream))

    def _new_context(self, profile: DecoderProfile, dedicated: bool = False) -> DeviceContext:
        scratch = self._memory.scratch
        return self._graph.context(profile.index, scratch, self._stream, dedicated=dedicated)

    def _bind(self, context: DeviceContext, call: PlannedCall) -> None:
        bucket, memory = call.bucket, self._memory
        layout = input_layout(self._specs, bucket)
        inputs = {
            spec.name: Tensor(memory.inputs + layout[spec.name].offset, tensor_shape(spec, bucket))
            for spec in self._specs
        }
        outputs = {
            _IDS: Tensor(memory.greedy_ids, (bucket.wanted,)),
            _LOGITS: Tensor(memory.logits, (bucket.wanted, self._vocab_size)),
        }
        cache = cache_tensors(self._cache, memory.cache, call.first, bucket.rows)
        context.bind(
            inputs | {f"past_{name}": tensor for name, tensor in cache.items()},
            outputs | {f"present_{name}": tensor for name, tensor in cache.items()},
        )

    def _enqueue(self, call: PlannedCall, context: DeviceContext) -> None:
        memory, cuda = self._memory, self._cuda
        nbytes = layout_bytes(self._specs, call.bucket)
        cuda.upload(memory.inputs, self._host_inputs, 0, nbytes, self._stream)
        context.run(self._stream)
        cuda.download(self._host_ids, 0, memory.greedy_ids, 8 * call.bucket.wanted, self._stream)


def _key(call: PlannedCall) -> _Key:
    return call.profile.index, call.first, call.bucket
