"""The captioner on one GPU with PyTorch: half precision throughout, and only ids come back."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.runtime.base import Array, StepBatch, StepResult
from altogether_rt.runtime.pipelined import ChosenTokens
from altogether_rt.runtime.torch.device.api import TorchDevice
from altogether_rt.runtime.torch.device.arrays import ArrayContext, TorchArray
from altogether_rt.runtime.torch.device.decode_graphs import DecodeGraphs
from altogether_rt.runtime.torch.device.packed import PackedDecoder
from altogether_rt.runtime.torch.device.packing import Packing
from altogether_rt.runtime.torch.device.pending import ChosenIds, DevicePendingStep
from altogether_rt.runtime.torch.device.step_plan import (
    DeviceStep,
    divide_by_phase,
    divide_decoding,
    upload_step,
)
from altogether_rt.runtime.torch.device.verify_graphs import VerifyGraphs
from altogether_rt.runtime.torch.device.vision import (
    attention_without_plans,
    device_encoder,
    device_mapper,
)
from altogether_rt.runtime.torch.float8 import Float8Products
from altogether_rt.runtime.torch.kernels.choice import (
    PLAIN,
    AttentionKernels,
    choose_kernels,
)
from altogether_rt.runtime.torch.kernels.choice_of_rows import RowKernels
from altogether_rt.runtime.torch.kernels.slots import (
    CacheType,
    HeadLayout,
    LayerSlots,
    RaggedRows,
    SlotCache,
    rotation_table,
    token_bucket,
)

__all__ = ["DeviceTorchRuntime"]

#: Prompt tokens per step, which fill the products of a large GPU.
_PREFILL_TOKENS = 8192


class DeviceTorchRuntime:
    """Implements `PipelinedRuntime`. Encoder and mapper run on one stream, the decoder on another.

    Embeddings and visual tokens are arrays on the device, and no call but `step` and a result of
    `begin` waits for it; so the decoder goes on with captions while images are encoded.
    """

    def __init__(
        self,
        model: CaptionerModel,
        device: TorchDevice,
        *,
        num_slots: int = 32,
        capacity: int | None = None,
        dtype: torch.dtype = torch.float16,
        kept: CacheType = "same",
        float8: Float8Products = "none",
        kernels: AttentionKernels | None = None,
        rows: RowKernels | None = None,
    ) -> None:
        """Copy the weights of `model`; an encoder or mapper that cannot be packed is taken over.

        capacity: tokens in a slot; None: the longest prompt and caption of the configuration.
        dtype: of weights and products. kept: how the cache keeps keys and values. float8: which
        products are in fp8; with `prompts`, steps that follow one stay in `dtype`, for which the
        decoder's layers are kept in both. kernels: of attention, rows: of what is between products;
        None: the fastest that the device runs.
        """
        assert num_slots >= 1
        config, where = model.config, device.torch_device
        self._device, self._dtype = device, dtype
        self.device: Final = str(where)
        self.num_slots: Final = num_slots
        self.token_width: Final = config.decoder.token_width
        self.prefill_tokens: Final = _PREFILL_TOKENS
        self.capacity: Final = config.capacity if capacity is None else capacity
        self.max_chunk: Final = self.capacity
        self._heads = HeadLayout.of(config.decoder)
        self._kernels = kernels or choose_kernels(where, dtype, self._heads)[0]
        self._packing = Packing(where, dtype, float8=float8, rows=rows)
        #: Whether a step's prompts are computed in another way than what follows others.
        self._two_phases = self._packing.float8 and not self._packing.float8_steps
        self._decoder = PackedDecoder(model.decoder, self._packing)
        self._mapper = device_mapper(model.mapper, self._packing)
        encoder = model.encoder
        self._encoder = None if encoder is None else device_encoder(encoder, self._packing)
        self._packing.choose_rows()
        rotary = config.decoder.position == "rotary"
        self._rotation = rotation_table(config.decoder, self.capacity, where) if rotary else None
        self._cache = SlotCache.zeros(
            config.decoder, num_slots, self.capacity, device=where, dtype=dtype, kept=kept
        )
        # Steps are short, and many products of the encoder are queued beside them.
        self._vision, self._decoding = device.stream(), device.stream(first=True)
        self._context = ArrayContext(device, device.stream())
        graphs = (device, self._decoding, num_slots, config.decoder.vocab_size, dtype)
        self._graphs = DecodeGraphs(*graphs, self._decode)
        self._verify_graphs = VerifyGraphs(*graphs, self._verify, self._heads)
        self._wait_for_all()  # weights and cache were written on the stream of the device's own
        if self._kernels.capturable:
            with torch.inference_mode(), device.use(self._decoding):
                if self._graphs.capture():
                    self._verify_graphs.capture()

    def _wait_for_all(self) -> None:
        if self._device.torch_device.type == "cuda":
            torch.cuda.synchronize(self._device.torch_device)

    @torch.inference_mode()
    def encode(self, pixels: NDArray[np.uint8]) -> TorchArray:
        """Pixels (N, H, W, 3) to embeddings (N, E) on the device."""
        assert self._encoder is not None, "this captioner was built without its encoder"
        with self._device.use(self._vision), attention_without_plans(self._device.torch_device):
            embeddings = self._encoder(self._device.upload(pixels))
            return TorchArray.computed(self._context, embeddings, self._vision)

    @torch.inference_mode()
    def map(self, embeddings: Array) -> TorchArray:
        """Embeddings (N, E) to visual tokens (N, P, W) on the device."""
        if not isinstance(embeddings, TorchArray):
            embeddings = TorchArray(self._context, [np.asarray(embeddings)])
        with self._device.use(self._vision), attention_without_plans(self._device.torch_device):
            tokens = self._mapper(embeddings.on(self._vision).to(self._dtype))
            return TorchArray.computed(self._context, tokens, self._vision)

    @torch.inference_mode()
    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        """One ragged decoder call; see `Runtime.step`."""
        if want_logits == (batch.sampling is not None):
            return self.begin(batch).result()
        device, stream = self._device, self._decoding
        with device.use(stream):
            greedy_ids, logits = self._launch(batch, None)
            ids = device.download(greedy_ids, stream)
            wanted = device.download(logits.float(), stream) if want_logits else None
            return StepResult(ids.array(), None if wanted is None else wanted.array())

    @torch.inference_mode()
    def begin(self, batch: StepBatch, chosen: ChosenTokens | None = None) -> DevicePendingStep:
        """`step` without waiting; see `PipelinedRuntime.begin`."""
        with self._device.use(self._decoding):
            taken = None if chosen is None else ChosenIds(chosen)
            greedy_ids, logits = self._launch(batch, taken)
            return DevicePendingStep(
                self._context, self._decoding, greedy_ids, logits, batch.sampling
            )

    def _launch(self, batch: StepBatch, chosen: ChosenIds | None) -> tuple[Tensor, Tensor]:
        """Greedy ids (L,) and logits (L, vocab), which the next step may overwrite."""
        rows = len(batch.query_lengths)
        assert rows <= self.num_slots, f"{rows} rows, but {self.num_slots} slots"
        reach = int((batch.query_lengths + batch.past_lengths).max())
        assert reach <= self.capacity, "a sequence is longer than its cache slot"
        if not (batch.query_lengths == 1).all() or batch.visual_index.size:
            if chosen is None and self._verify_graphs.fits(batch):
                return self._verify_graphs.run(batch)
            logits = self._ragged(batch, chosen)
            return logits.argmax(dim=-1), logits
        greedy_ids, logits = self._graphs.run(batch.token_ids, batch.past_lengths, chosen)
        if len(batch.logit_index) != rows:
            wanted = self._device.upload(batch.logit_index)
            greedy_ids, logits = greedy_ids[wanted], logits[wanted]
        return greedy_ids, logits

    def _decode(self, token_ids: Tensor, past: Tensor) -> Tensor:
        """One token for each of the first slots; sizes depend on their number alone."""
        count = len(token_ids)
        rows = RaggedRows(
            torch.arange(count, dtype=torch.int32, device=past.device),
            torch.ones(count, dtype=torch.int32, device=past.device),
            past,
            max_tokens=1,
        )

        return self._verify(token_ids, past.clamp(min=0), rows)

    def _verify(self, token_ids: Tensor, positions: Tensor, rows: RaggedRows) -> Tensor:
        """Logits of tokens that follow others; sizes depend on the numbers of rows and tokens."""

        def attention(layer: int, qkv: Tensor) -> Tensor:
            slots = self._cache.layers[layer]
            return self._kernels.attend(qkv, slots, rows, self._heads, self._rotation)

        x = self._decoder.embed(token_ids)
        return self._decoder.logits(self._decoder.run(x, positions, attention))

    def _ragged(self, batch: StepBatch, chosen: ChosenIds | None) -> Tensor:
        """A step of prompts, drafts and single tokens: logits (L, vocab)."""
        divided = divide_decoding(batch)
        if divided is not None and (self._kernels.capturable or self._two_phases):
            # A captured step and the prompts alone are started sooner than one step of both.
            rows, prompts = divided
            _, logits = self._graphs.run(batch.token_ids[:rows], batch.past_lengths[:rows], chosen)
            asked = batch.logit_index[batch.logit_index < rows]
            if len(asked) != rows:
                logits = logits[self._device.upload(asked)]
            return torch.cat([logits, self._ragged(prompts, None)])
        step = upload_step(batch, self._device, chosen)
        x = self._decoder.embed(step.token_ids)  # (T, W)
        if batch.visual_index.size:
            x[step.visual_index] = self._visual_tokens(batch.visual_tokens)
        if not self._two_phases or step.prompts is None or step.rows is None:
            return self._decoder.logits(self._hidden(step, x, step.logit_index))
        # Prompts are computed in fp8, and what follows others is not.
        hidden = torch.empty_like(x)
        for index, part in divide_by_phase(batch):
            at = self._device.upload(index)
            hidden[at] = self._hidden(upload_step(part, self._device), x[at], None)
        return self._decoder.logits(hidden[step.logit_index])

    def _hidden(self, step: DeviceStep, x: Tensor, keep: Tensor | None) -> Tensor:
        """Embedded tokens x (T, token_width) -> hidden (K, token_width); keep: None: of all."""

        def attention(layer: int, qkv: Tensor) -> Tensor:
            return self._attend(step, self._cache.layers[layer], qkv)

        prompts = step.prompts is not None
        return self._decoder.run(x, step.positions, attention, keep=keep, float8=prompts)

    def _visual_tokens(self, tokens: Array) -> Tensor:
        if isinstance(tokens, TorchArray):
            return tokens.on(self._decoding).to(self._dtype)
        return self._device.upload(np.asarray(tokens)).to(self._dtype)

    def _attend(self, step: DeviceStep, slots: LayerSlots, qkv: Tensor) -> Tensor:
        kernels, heads = self._kernels, self._heads
        out: Tensor | None = None
        if step.rows is not None:
            fits = token_bucket(step.rows.max_tokens, heads) is not None
            attend = kernels.attend if fits else PLAIN.attend
            out = attend(qkv, slots, step.rows, heads, self._rotation)
        if step.prompts is None:
            assert out is not None
            return out
        prompts = qkv[step.prompt_tokens]
        kernels.store(prompts, slots, step.prompts, heads, self._rotation)
        mixed = kernels.attend_prompts(prompts, step.prompts, heads)
        if out is None:  # every token is a prompt's
            return mixed
        out[step.prompt_tokens] = mixed
        return out

    def move_slot(self, src: int, dst: int, length: int) -> None:
        """Copy the first `length` tokens of slot `src` over slot `dst`."""
        with torch.inference_mode(), self._device.use(self._decoding):
            self._cache.move_slot(src, dst, length)

    def close(self) -> None:
        """Wait for what was begun, then free the weights and the cache."""
        if "_cache" in self.__dict__:
            with suppress(RuntimeError):  # of a step that failed, which has raised it
                self._wait_for_all()
        for name in ("_graphs", "_verify_graphs", "_cache", "_decoder", "_mapper", "_encoder"):
            self.__dict__.pop(name, None)

    def __enter__(self) -> DeviceTorchRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
