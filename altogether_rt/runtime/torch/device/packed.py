"""The decoder's weights as a step reads them, and the step on packed tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from altogether_rt.model.decoder import Decoder, DecoderLayer
from altogether_rt.runtime.torch.device.packing import (
    PackedBlock,
    PackedLinear,
    Packing,
    feed_forward,
    joined,
    operand,
)
from altogether_rt.runtime.torch.float8 import Float8Rows
from altogether_rt.runtime.torch.kernels.plain_rows import NormWeights

__all__ = ["PackedDecoder"]

#: attention(layer, qkv (T, qkv_width)) -> (T, heads · D); it stores the new keys and values.
Attention = Callable[[int, Tensor], Tensor]


class PackedDecoder:
    """The weights of a `Decoder` on a device, in one type; norms are computed in float32.

    With a packing in fp8 prompts are computed in fp8. What follows them is not, for which the
    layers are there in both forms, unless the packing has steps in fp8 too.
    """

    def __init__(self, decoder: Decoder, packing: Packing) -> None:
        """Copies what it needs: `decoder` may be dropped."""
        self.config = decoder.config
        self._packing = packing
        self._embed = packing.tensor(decoder.embed.weight)
        table = decoder.positions
        self._positions = None if table is None else packing.tensor(table.weight)
        self._project_in = self._optional(decoder.project_in)
        self._project_out = self._optional(decoder.project_out)
        self._norm = None if decoder.norm is None else packing.norm(decoder.norm)
        self._head = self._embed if decoder.head is None else packing.tensor(decoder.head.weight)
        self._layers = [self._packed(layer) for layer in decoder.layers]
        self._pre_norm = self.config.norm_placement == "pre"

    def embed(self, token_ids: Tensor) -> Tensor:
        """token_ids (T,) -> (T, token_width)."""
        return F.embedding(token_ids, self._embed)

    def run(
        self,
        x: Tensor,
        positions: Tensor,
        attention: Attention,
        *,
        keep: Tensor | None = None,
        float8: bool = False,
    ) -> Tensor:
        """Embedded tokens x (T, token_width) at `positions` (T,) -> hidden (T, token_width).

        keep: the tokens (K,) that are asked for, if not all: hidden is (K, token_width), and the
        last layer computes nothing else. float8: whether these are prompts, which a packing in fp8
        computes in fp8.
        """
        float8 = self._packing.float8 and (float8 or self._packing.float8_steps)
        if self._project_in is not None:
            x = self._project_in(x)
        if self._positions is not None:
            x = x + F.embedding(positions + self.config.position_offset, self._positions)
        run = self._run_pre_norm if self._pre_norm else self._run_post_norm
        x = run(x, attention, keep, float8)
        return x if self._project_out is None else self._project_out(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., token_width) -> next-token logits (..., vocab_size)."""
        return F.linear(hidden, self._head)

    def _run_pre_norm(
        self, x: Tensor, attention: Attention, keep: Tensor | None, float8: bool
    ) -> Tensor:
        """Each norm is computed with the sum before it, also over the border of two layers."""
        rows, first = self._packing.rows, self._layers[0]
        following: list[NormWeights | None] = [layer.norm1 for layer in self._layers[1:]]
        readers: list[PackedLinear | None] = [layer.qkv for layer in self._layers[1:]]
        normed: Tensor | Float8Rows
        _, normed = rows.add_norm(x, None, first.norm1, float8=first.qkv.takes_rows(float8))
        for index, (layer, norm, reader) in enumerate(
            zip(self._layers, [*following, self._norm], [*readers, None], strict=True)
        ):
            mixed = attention(index, layer.qkv(normed))
            if keep is not None and reader is None:
                mixed, x = mixed[keep], x[keep]
            y = layer.out(operand(rows, mixed, layer.out, float8))
            x, normed = rows.add_norm(y, x, layer.norm2, float8=layer.fc1.takes_rows(float8))
            y = feed_forward(rows, layer, normed, float8)
            if norm is None:
                return x + y.to(x.dtype)
            small = reader is not None and reader.takes_rows(float8)
            x, normed = rows.add_norm(y, x, norm, float8=small)
        assert isinstance(normed, Tensor)
        return normed

    def _run_post_norm(
        self, x: Tensor, attention: Attention, keep: Tensor | None, float8: bool
    ) -> Tensor:
        rows = self._packing.rows
        normed: Tensor | Float8Rows
        for index, layer in enumerate(self._layers):
            mixed = attention(index, layer.qkv(operand(rows, x, layer.qkv, float8)))
            if keep is not None and layer is self._layers[-1]:
                mixed, x = mixed[keep], x[keep]
            y = layer.out(operand(rows, mixed, layer.out, float8))
            _, normed = rows.add_norm(y, x, layer.norm1)
            assert isinstance(normed, Tensor)
            y = feed_forward(rows, layer, operand(rows, normed, layer.fc1, float8), float8)
            _, normed = rows.add_norm(y, normed, layer.norm2)
            assert isinstance(normed, Tensor)
            x = normed
        if self._norm is not None:
            _, normed = rows.add_norm(x, None, self._norm)
            assert isinstance(normed, Tensor)
            return normed
        return x

    def _packed(self, layer: nn.Module) -> PackedBlock:
        assert isinstance(layer, DecoderLayer)
        inner = [layer.fc1] if layer.gate is None else [layer.gate, layer.fc1]
        return self._packing.block(
            (layer.norm1, layer.norm2),
            qkv=joined(layer.q, layer.k, layer.v),
            out=joined(layer.out),
            fc1=joined(*inner),
            fc2=joined(layer.fc2),
            activation=self.config.activation,
            gated=layer.gate is not None,
            keep_half=not self._packing.float8_steps,
        )

    def _optional(self, layer: nn.Linear | None) -> PackedLinear | None:
        return None if layer is None else self._packing.linear(layer.weight, layer.bias)
