"""Decode steps by a graph of their own: one token for each of the first slots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from altogether_rt.runtime.base import StepBatch, StepResult
from altogether_rt.runtime.cuda.api import Cuda
from altogether_rt.runtime.cuda.graph import DeviceContext, DeviceGraph, Tensor
from altogether_rt.runtime.cuda.memory_plan import CacheLayout, DecoderMemory, cache_tensors
from altogether_rt.runtime.cuda.sampling.reader import LogitReader, part_of

__all__ = ["DecodeStep"]

_ID_BYTES, _LENGTH_BYTES = 8, 4


class DecodeStep:
    """Runs the graph that `export.decoder.build_decode_step` writes, in the decoder's memory.

    Rows are padded to a power of two, or to all slots. A padding row is a slot that no sequence
    uses in this step: it gets a token after those that the slot holds, where the slot's next token
    overwrites it. Each number of rows has a context of its own, so that its runs can be captured.
    """

    def __init__(
        self,
        cuda: Cuda,
        graph: DeviceGraph,
        cache: CacheLayout,
        memory: DecoderMemory,
        vocab_size: int,
        stream: int,
        reader: LogitReader,
    ) -> None:
        """memory: inputs and results share the regions of the other graph's, as both run on
        `stream`, one after the other. reader: of the logits there."""
        self._cuda = cuda
        self._graph = graph
        self._cache = cache
        self._memory = memory
        self._vocab_size = vocab_size
        self._stream = stream
        self._contexts: dict[int, DeviceContext] = {}  # by rows
        slots = cache.num_slots
        self._host_inputs = cuda.host_alloc((_ID_BYTES + _LENGTH_BYTES) * slots)
        self._host_ids = cuda.host_alloc(_ID_BYTES * slots)
        self._reader = reader

    def takes(self, batch: StepBatch) -> int:
        """How many of the first rows are steps of this graph; those after them are others.

        All, if every row brings one token and asks for the next; those before new prompts; or none.
        Behind drafts nothing is divided: their rows read the same weights together.
        """
        rows = len(batch.query_lengths)
        single = batch.query_lengths == 1
        if single.all() and not len(batch.visual_index):
            first = rows
        else:
            first = int(np.argmin(single & (batch.past_lengths > 0)))
            if batch.past_lengths[first:].any():
                return 0
        asked = batch.logit_index
        one_each = bool((asked[:first] == np.arange(first)).all()) if len(asked) >= first else False
        return first if one_each and (asked[first:] >= first).all() else 0

    def step(
        self, batch: StepBatch, rows: int, held: NDArray[np.int32], want_logits: bool
    ) -> StepResult:
        """The first `rows` rows of a step, each of one token; see `Runtime.step`.

        held: (slots,) tokens that each slot may hold.
        """
        padded = min(1 << (rows - 1).bit_length(), self._cache.num_slots)
        past_lengths = held[:padded].copy()
        past_lengths[:rows] = batch.past_lengths[:rows]
        token_ids = np.zeros(padded, np.int64)
        token_ids[:rows] = batch.token_ids[:rows]
        block, split = self._host_inputs.array, _ID_BYTES * padded
        nbytes = split + _LENGTH_BYTES * padded
        block[:split] = token_ids.view(np.uint8)
        block[split:nbytes] = past_lengths.view(np.uint8)

        cuda, memory, stream = self._cuda, self._memory, self._stream
        cuda.upload(memory.inputs, self._host_inputs, 0, nbytes, stream)
        self._context(padded).run(stream)
        cuda.download(self._host_ids, 0, memory.greedy_ids, _ID_BYTES * rows, stream)
        cuda.synchronize(stream)
        greedy_ids = self._host_ids.array.view(np.int64)[:rows].copy()
        sampling = part_of(batch.sampling, slice(rows))
        return self._reader.result(greedy_ids, want_logits, sampling)

    def close(self) -> None:
        """Free contexts and host memory; the stream must be idle."""
        self._contexts.clear()
        for buffer in (self._host_inputs, self._host_ids):
            self._cuda.host_free(buffer)

    def _context(self, rows: int) -> DeviceContext:
        if rows not in self._contexts:
            memory = self._memory
            context = self._graph.context(0, memory.scratch, self._stream, dedicated=True)
            cache = cache_tensors(self._cache, memory.cache, 0, rows)
            inputs = {
                "token_ids": Tensor(memory.inputs, (rows,)),
                "past_lengths": Tensor(memory.inputs + _ID_BYTES * rows, (rows,)),
            }
            outputs = {
                "greedy_ids": Tensor(memory.greedy_ids, (rows,)),
                "logits": Tensor(memory.logits, (rows, self._vocab_size)),
            }
            context.bind(
                inputs | {f"past_{name}": tensor for name, tensor in cache.items()},
                outputs | {f"present_{name}": tensor for name, tensor in cache.items()},
            )
            self._contexts[rows] = context
        return self._contexts[rows]
