"""The backend of ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.errors import AltogetherError
from altogether_rt.runtime.base import Array, StepBatch, StepResult
from altogether_rt.runtime.cpu.call_sizes import (
    embeddings_per_call,
    images_per_call,
    tokens_per_call,
)
from altogether_rt.runtime.cpu.interface import check_interface, run_failure
from altogether_rt.runtime.cpu.kv_buffers import KVBuffers
from altogether_rt.runtime.cpu.prepared import find_prepared
from altogether_rt.runtime.cpu.row_tiles import row_multiple
from altogether_rt.runtime.ort_session import open_session
from altogether_rt.runtime.packing import pack_indices

__all__ = ["OnnxRuntime"]


class OnnxRuntime:
    """Runs a bundle's graphs on the CPU; implements `Runtime`.

    The cache is bound once for each number of rows that occurs; a step binds its few index arrays
    and a preallocated output, and copies nothing else. `max_chunk` is the maximum number of tokens
    of one row in one step (by default the longest prompt and a draft). The cache has that many
    positions beyond `capacity`, because attention needs room for the padded chunk of every row
    after the row's tokens.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        num_slots: int = 16,
        max_chunk: int | None = None,
        profile: Path | None = None,
    ) -> None:
        """profile: a folder for each graph's operator times, `NAME_TIME.json`, written on close."""
        assert num_slots >= 1
        self.num_slots: Final = num_slots
        self.device: Final = "cpu"
        config = bundle.config
        prepared = find_prepared(bundle)
        if prepared is None and bundle.unverified:  # it was there when the bundle was checked
            bundle.verify_hashes()
        self._encoder, self._mapper, self._decoder = (
            open_session(
                (prepared or bundle).graph_path(name),
                threads=threads,
                spin=name == "decoder",  # only the decoder runs many times in succession
                half=bundle.is_half,
                optimized=prepared is not None,
                profile=None if profile is None else profile / name,
            )
            for name in ("encoder", "mapper", "decoder")
        )
        check_interface(bundle, (self._encoder, self._mapper, self._decoder))
        # Tokens that fill a call up take part in products of weights only: no padded view
        # shows them, so attention does not see them and the cache does not get them.
        self._row_multiple = row_multiple(bundle.manifest.target.weight_group)
        self._min_chunk = bundle.manifest.cache.min_chunk
        self.max_chunk: Final = max(max_chunk or config.max_chunk_tokens, self._min_chunk)
        self.capacity: Final = config.capacity
        self.token_width: Final = config.decoder.token_width
        self._vocab_size = config.decoder.vocab_size
        positions = self.capacity + self.max_chunk
        try:
            self._cache = KVBuffers(bundle.manifest.cache, num_slots, positions)
        except (MemoryError, ValueError) as error:
            raise AltogetherError(
                f"{bundle.path} needs more memory for {num_slots} captions at once than there is: "
                "use a smaller --batch-size."
            ) from error
        self._bindings: dict[tuple[int, bool], Any] = {}  # by (rows, want_logits)
        self._images_per_call = images_per_call(config.encoder)
        self._embeddings_per_call = embeddings_per_call(config)
        self.prefill_tokens: Final = tokens_per_call(config)

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels (N, H, W, 3) to embeddings (N, E)."""
        return _in_parts(self._encoder, "pixels", pixels, self._images_per_call)

    def map(self, embeddings: Array) -> NDArray[np.float32]:
        """Embeddings (N, E) to visual tokens (N, P, W)."""
        return _in_parts(
            self._mapper, "embeddings", np.asarray(embeddings), self._embeddings_per_call
        )

    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        """One ragged decoder call; see `Runtime.step`."""
        rows, wanted = len(batch.query_lengths), len(batch.logit_index)
        self._check_room(batch)
        packing = pack_indices(batch.query_lengths, batch.past_lengths, self._min_chunk)
        unread = -len(batch.token_ids) % self._row_multiple
        inputs: dict[str, NDArray[Any]] = {
            "token_ids": _filled_up(batch.token_ids, unread),
            "positions": _filled_up(packing.positions, unread),
            "visual_tokens": np.asarray(batch.visual_tokens),
            "visual_index": batch.visual_index,
            "query_lengths": batch.query_lengths,
            "past_lengths": batch.past_lengths,
            "pad_index": packing.pad_index,
            "unpad_index": _filled_up(packing.unpad_index, unread),
            "logit_index": batch.logit_index,
        }
        binding = self._binding(rows, want_logits)
        for name, array in inputs.items():
            assert array.flags.c_contiguous, f"{name} is not contiguous"
            binding.bind_cpu_input(
                name, array
            )  # without a copy; takes a third of the time of bind_input
        greedy_ids = np.empty(wanted, np.int64)
        _bind_output(binding, "greedy_ids", greedy_ids)
        logits = np.empty((wanted, self._vocab_size), np.float32) if want_logits else None
        if logits is not None:
            _bind_output(binding, "logits", logits)
        try:
            self._decoder.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's exceptions share no public base
            raise run_failure(error) from error
        return StepResult(greedy_ids, logits)

    def move_slot(self, src: int, dst: int, length: int) -> None:
        """Copy the first `length` tokens of slot `src` over slot `dst`."""
        self._cache.move_slot(src, dst, length)

    def close(self) -> None:
        """Free the sessions and the cache."""
        self._bindings.clear()
        for name in ("_encoder", "_mapper", "_decoder", "_cache"):
            self.__dict__.pop(name, None)

    def __enter__(self) -> OnnxRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_room(self, batch: StepBatch) -> None:
        rows, longest = len(batch.query_lengths), int(batch.query_lengths.max())
        assert rows <= self.num_slots, f"{rows} rows, but {self.num_slots} slots"
        assert longest <= self.max_chunk, f"{longest} tokens a row, but max_chunk {self.max_chunk}"
        reach = int((batch.query_lengths + batch.past_lengths).max())
        assert reach <= self.capacity, f"{reach} tokens in a slot, but capacity {self.capacity}"

    def _binding(self, rows: int, want_logits: bool) -> Any:
        """The IO binding whose past and present are the first `rows` slots of the cache.

        A bound output stays bound, so steps that want logits have bindings of their own.
        """
        key = (rows, want_logits)
        if key not in self._bindings:
            binding = self._decoder.io_binding()
            for layer in range(self._cache.layers):
                for part, kind in enumerate(("key", "value")):
                    view = self._cache.view(layer, part, rows)
                    _bind_input(binding, f"past_{kind}.{layer}", view)
                    _bind_output(binding, f"present_{kind}.{layer}", view)
            self._bindings[key] = binding
        return self._bindings[key]


def _filled_up(array: NDArray[Any], count: int) -> NDArray[Any]:
    """`array` with `count` zeros after it; itself, if that is none."""
    return np.concatenate([array, np.zeros(count, array.dtype)]) if count else array


def _in_parts(session: Any, name: str, rows: NDArray[Any], part: int) -> NDArray[np.float32]:
    """The first output for `rows`, computed `part` of them at a time."""
    starts = range(0, len(rows), part)
    try:
        outputs = [session.run(None, {name: rows[start : start + part]})[0] for start in starts]
    except Exception as error:  # onnxruntime's exceptions share no public base
        raise run_failure(error) from error
    whole: NDArray[np.float32] = outputs[0] if len(outputs) == 1 else np.concatenate(outputs)
    return whole


def _bind_input(binding: Any, name: str, array: NDArray[Any]) -> None:
    """Bind memory without a copy; the caller keeps it alive until the run has finished."""
    assert array.flags.c_contiguous, f"{name} is not contiguous"
    binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def _bind_output(binding: Any, name: str, array: NDArray[Any]) -> None:
    assert array.flags.c_contiguous, f"{name} is not contiguous"
    binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
