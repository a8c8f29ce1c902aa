"""Encoder and mapper as a device runs them: packed, or the modules themselves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from altogether_rt.model.encoder import Encoder
from altogether_rt.runtime.torch.device.packed_blocks import pack_mapper
from altogether_rt.runtime.torch.device.packed_encoder import pack_encoder
from altogether_rt.runtime.torch.device.packing import Packing

__all__ = ["attention_without_plans", "device_encoder", "device_mapper"]

_LOG = logging.getLogger(__name__)
#: What `F.scaled_dot_product_attention` may run on a GPU.
_ATTENTION = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
#: Pixels (N, H, W, 3) to embeddings, or embeddings to visual tokens, both in the type of the step.
Computed = Callable[[Tensor], Tensor]


def attention_without_plans(device: torch.device) -> AbstractContextManager[None]:
    """Inside the context, attention on a GPU is not cuDNN's.

    That is no faster at these sizes and plans for every number of images anew, which takes tens of
    milliseconds of the thread that begins steps; batches have any number of images.
    """
    if device.type != "cuda":
        return nullcontext()
    context: AbstractContextManager[None] = sdpa_kernel(_ATTENTION)
    return context


def device_encoder(encoder: nn.Module, packing: Packing) -> Computed:
    """The encoder on the packing's device. One that cannot be packed is moved, not copied."""
    packed = pack_encoder(encoder, packing)
    if packed is not None:
        return packed
    _LOG.info("the encoder runs by itself: it is of no make that is packed for this device")
    dtype, device = packing.dtype, packing.device
    moved = encoder.to(device).eval()
    if isinstance(moved, Encoder):
        moved.visual.to(dtype)
        return lambda pixels: _encode(moved, pixels, dtype)
    half = dtype != torch.float32

    def encode(pixels: Tensor) -> Tensor:  # of another make: it keeps its weights
        with torch.autocast(pixels.device.type, dtype, enabled=half):
            found: Tensor = moved(pixels)
        return found.to(dtype)

    return encode


def device_mapper(mapper: nn.Module, packing: Packing) -> Computed:
    """The mapper on the packing's device. One that cannot be packed is moved, not copied."""
    packed = pack_mapper(mapper, packing)
    return packed or mapper.to(packing.device, packing.dtype).eval()


def _encode(encoder: Encoder, pixels: Tensor, dtype: torch.dtype) -> Tensor:
    image = pixels.permute(0, 3, 1, 2).to(encoder.mean.dtype) / 255
    embeddings = encoder.visual(((image - encoder.mean) / encoder.std).to(dtype))
    if isinstance(embeddings, tuple):  # CoCa's tower also returns its patch tokens
        embeddings = embeddings[0]
    if encoder.config.normalize:
        embeddings = F.normalize(embeddings.float(), dim=-1)
    pooled: Tensor = embeddings
    return pooled.to(dtype)
