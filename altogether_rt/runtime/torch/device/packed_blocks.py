"""Transformer blocks in which every position attends to every position: encoder and mapper."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from altogether_rt.model.mapper import MapperBlock, TransformerMapper
from altogether_rt.runtime.torch.device.packing import (
    PackedBlock,
    Packing,
    feed_forward,
    joined,
    operand,
)
from altogether_rt.runtime.torch.float8 import Float8Rows
from altogether_rt.runtime.torch.kernels.plain_rows import NormWeights

__all__ = ["PackedBlocks", "PackedMapper", "pack_mapper"]

_EVERY = slice(None)


class PackedBlocks:
    """Pre-norm blocks over sequences of one length, one after another."""

    def __init__(self, blocks: Sequence[PackedBlock], heads: int, packing: Packing) -> None:
        assert blocks
        self._blocks, self._heads, self._packing = tuple(blocks), heads, packing

    def run(self, x: Tensor, keep: slice = _EVERY, final: NormWeights | None = None) -> Tensor:
        """x (N, P, W) -> (N, K, W): what the blocks give at the positions `keep`.

        The last block computes nothing else at the other positions but keys and values. final: a
        norm after the blocks.
        """
        rows, small = self._packing.rows, self._packing.float8
        shape, width = x.shape, x.shape[-1]
        first, *following = self._blocks
        normed: Tensor | Float8Rows
        x, normed = rows.add_norm(
            x.reshape(-1, width), None, first.norm1, float8=first.qkv.takes_rows(small)
        )
        for block, after in zip(self._blocks, [*following, None], strict=True):
            mixed = self._attend(block.qkv(normed).view(*shape[:2], -1))  # (N, P, W)
            if after is None:
                mixed, x = mixed[:, keep], x.view(shape)[:, keep].reshape(-1, width)
            kept = mixed.shape[1]
            y = block.out(operand(rows, mixed.reshape(-1, width), block.out, small))
            x, normed = rows.add_norm(y, x, block.norm2, float8=block.fc1.takes_rows(small))
            y = feed_forward(rows, block, normed, small)
            if after is not None:
                x, normed = rows.add_norm(y, x, after.norm1, float8=after.qkv.takes_rows(small))
        if final is None:
            return (x + y.to(x.dtype)).view(shape[0], kept, width)
        _, normed = rows.add_norm(y, x, final)
        assert isinstance(normed, Tensor)
        return normed.view(shape[0], kept, width)

    def _attend(self, qkv: Tensor) -> Tensor:
        """qkv (N, P, 3 W), of which attention reads its parts as they lie -> (N, P, W)."""
        count, length, width = qkv.shape
        q, k, v = qkv.view(count, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)  # (N, H, P, D)
        return mixed.transpose(1, 2).reshape(count, length, width // 3)


class PackedMapper:
    """A `TransformerMapper` on a device."""

    def __init__(self, mapper: TransformerMapper, packing: Packing) -> None:
        """Copies what it needs."""
        self._linear = packing.linear(mapper.linear.weight, mapper.linear.bias)
        self._prefix = packing.tensor(mapper.prefix)
        self._clip_length = mapper.clip_length
        layers = [layer for layer in mapper.layers if isinstance(layer, MapperBlock)]
        self._blocks = PackedBlocks(
            [_packed(layer, packing) for layer in layers], layers[0].heads, packing
        )

    def __call__(self, embeddings: Tensor) -> Tensor:
        """embeddings (B, E) -> visual tokens (B, prefix_length, W)."""
        batch, width = len(embeddings), self._prefix.shape[1]
        unfolded = self._linear(embeddings).view(batch, self._clip_length, width)
        x = unfolded.new_empty(batch, self._clip_length + len(self._prefix), width)
        x[:, : self._clip_length], x[:, self._clip_length :] = unfolded, self._prefix
        return self._blocks.run(x, slice(self._clip_length, None))


def pack_mapper(mapper: nn.Module, packing: Packing) -> PackedMapper | None:
    """The mapper's blocks packed; None for a mapper without any, or with layers of other makes."""
    if not isinstance(mapper, TransformerMapper) or not len(mapper.layers):
        return None
    linears = (m for m in mapper.modules() if hasattr(m, "in_features"))
    plain = all(type(module) is nn.Linear for module in linears)
    return PackedMapper(mapper, packing) if plain else None


def _packed(block: MapperBlock, packing: Packing) -> PackedBlock:
    return packing.block(
        (block.norm1, block.norm2),
        qkv=joined(block.q, block.kv),
        out=joined(block.out),
        fc1=joined(block.fc1),
        fc2=joined(block.fc2),
        activation="relu",
    )
