"""The torch backend, the reference that every other backend is compared with."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.model.decoder import KVCache
from altogether_rt.runtime.base import PREFILL_TOKENS, Array, StepBatch, StepResult
from altogether_rt.runtime.packing import pack_indices
from altogether_rt.runtime.torch.decode import DecodeStep

__all__ = ["TorchRuntime"]


class TorchRuntime:
    """Runs the torch captioner itself, in the precision of its weights; implements `Runtime`."""

    def __init__(
        self,
        model: CaptionerModel,
        *,
        num_slots: int = 16,
        capacity: int | None = None,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        fixed_decode: bool | None = None,
    ) -> None:
        """Take over `model`, which is moved to `device` and set to evaluation mode.

        capacity: tokens in a slot; None: the longest prompt and caption of the configuration.
        dtype: of mapper and decoder; None: unchanged. The encoder keeps its weights and computes
        its products in this type and its norms in float32. fixed_decode: run steps of one token per
        row at fixed sizes, captured as CUDA graphs; None: only on a GPU.
        """
        assert num_slots >= 1
        self._model = model.to(device).eval()
        self._products = dtype
        if dtype is not None:
            self._model.mapper.to(dtype)
            self._model.decoder.to(dtype)
        on_gpu = torch.device(device).type == "cuda"
        self._fixed_decode = on_gpu if fixed_decode is None else fixed_decode
        self._decode_steps: dict[int, DecodeStep] = {}  # by rows
        self._device = torch.device(device)
        self.device: Final = str(self._device)
        decoder = model.config.decoder
        self.capacity: Final = model.config.capacity if capacity is None else capacity
        self.max_chunk: Final = self.capacity
        self.num_slots: Final = num_slots
        self.token_width: Final = decoder.token_width
        self.prefill_tokens: Final = PREFILL_TOKENS
        cached = model.decoder.embed.weight.dtype
        self._cache = KVCache.zeros(decoder, num_slots, self.capacity, self._device, cached)

    @property
    def model(self) -> CaptionerModel:
        """The captioner that it runs."""
        return self._model

    @property
    def cache(self) -> KVCache:
        """Keys and values of all slots."""
        return self._cache

    @torch.inference_mode()
    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels (N, H, W, 3) to embeddings (N, E)."""
        half = self._products not in (None, torch.float32)
        with torch.autocast(self._device.type, self._products, enabled=half):
            return _to_numpy(self._model.encode(self._tensor(pixels)))

    @torch.inference_mode()
    def map(self, embeddings: Array) -> NDArray[np.float32]:
        """Embeddings (N, E) to visual tokens (N, P, W)."""
        dtype = self._model.decoder.embed.weight.dtype
        return _to_numpy(self._model.visual_tokens(self._tensor(np.asarray(embeddings)).to(dtype)))

    @torch.inference_mode()
    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        """One ragged decoder call; see `Runtime.step`."""
        rows = len(batch.query_lengths)
        assert rows <= self.num_slots, f"{rows} rows, but {self.num_slots} slots"
        if self._fixed_decode and (batch.query_lengths == 1).all() and not batch.visual_index.size:
            return self._decode(batch, want_logits)
        decoder = self._model.decoder
        packing = pack_indices(batch.query_lengths, batch.past_lengths)
        packed = decoder.embed(self._tensor(batch.token_ids))  # (T, W)
        visual_tokens = self._tensor(np.asarray(batch.visual_tokens)).to(packed.dtype)
        packed[self._tensor(batch.visual_index)] = visual_tokens
        padded = packed[self._tensor(packing.pad_index)]  # (B, S, W)
        lengths = self._tensor(batch.query_lengths), self._tensor(batch.past_lengths)
        hidden, _ = decoder.step(padded, *lengths, self._cache)
        flat = packing.unpad_index[batch.logit_index]  # (L,) indices in the flat padded view
        logits = decoder.logits(hidden.flatten(0, 1)[self._tensor(flat)])  # (L, vocab)
        greedy_ids = logits.argmax(dim=-1).cpu().numpy()
        return StepResult(greedy_ids, _to_numpy(logits) if want_logits else None)

    def _decode(self, batch: StepBatch, want_logits: bool) -> StepResult:
        """A step of one token per row."""
        rows = len(batch.query_lengths)
        reach = int(batch.past_lengths.max()) + 1
        assert reach <= self.capacity, "a sequence is longer than its cache slot"
        if rows not in self._decode_steps:
            self._decode_steps[rows] = DecodeStep(self._model.decoder, self._cache, rows)
        tokens, past = self._tensor(batch.token_ids), self._tensor(batch.past_lengths)
        greedy_ids, logits = self._decode_steps[rows].run(tokens, past)
        wanted = self._tensor(batch.logit_index)
        found = greedy_ids[wanted].cpu().numpy()
        return StepResult(found, _to_numpy(logits[wanted]) if want_logits else None)

    def move_slot(self, src: int, dst: int, length: int) -> None:
        """Copy the first `length` tokens of slot `src` over slot `dst`."""
        for part in (self._cache.keys, self._cache.values):
            part[:, dst, :, :length] = part[:, src, :, :length]

    def close(self) -> None:
        """Free the model and the cache."""
        self._decode_steps.clear()
        self.__dict__.pop("_model", None)
        self.__dict__.pop("_cache", None)

    def __enter__(self) -> TorchRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tensor(self, array: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _to_numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    return array
