"""The decoder's weights as a step reads them, and the step on packed tokens."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altogether_rt.model.decoder import Decoder, DecoderLayer, activate

__all__ = ["PackedDecoder"]

#: attention(layer, qkv (T, qkv_width)) -> (T, heads · D); it stores the new keys and values.
Attention = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class _Linear:
    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class _Layer:
    norm1: nn.Module
    qkv: _Linear  # queries, keys and values in one product
    out: _Linear
    norm2: nn.Module
    gate: _Linear | None
    fc1: _Linear
    fc2: _Linear


class PackedDecoder:
    """The weights of a `Decoder` on a device, in one type; norms compute their sums in float32."""

    def __init__(self, decoder: Decoder, device: torch.device, dtype: torch.dtype) -> None:
        """Copies what it needs: `decoder` may be dropped."""
        self.config = decoder.config
        self._device, self._dtype = device, dtype
        self._embed = self._copied(decoder.embed.weight)
        table = decoder.positions
        self._positions = None if table is None else self._copied(table.weight)
        self._project_in = self._optional(decoder.project_in)
        self._project_out = self._optional(decoder.project_out)
        self._norm = None if decoder.norm is None else self._module(decoder.norm)
        self._head = self._embed if decoder.head is None else self._copied(decoder.head.weight)
        self._layers = [self._packed(layer) for layer in decoder.layers]
        first = decoder.layers[0]
        assert isinstance(first, DecoderLayer)
        self._pre_norm, self._activation = first.pre_norm, first.activation

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    def embed(self, token_ids: Tensor) -> Tensor:
        """token_ids (T,) -> (T, token_width)."""
        return F.embedding(token_ids, self._embed)

    def run(self, x: Tensor, positions: Tensor, attention: Attention) -> Tensor:
        """Embedded tokens x (T, token_width) at `positions` (T,) -> hidden (T, token_width)."""
        if self._project_in is not None:
            x = self._project_in(x)
        if self._positions is not None:
            x = x + F.embedding(positions + self.config.position_offset, self._positions)
        for index, layer in enumerate(self._layers):
            x = self._run_layer(layer, x, functools.partial(attention, index))
        if self._norm is not None:
            x = self._norm(x)
        return x if self._project_out is None else self._project_out(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., token_width) -> next-token logits (..., vocab_size)."""
        return F.linear(hidden, self._head)

    def _run_layer(self, layer: _Layer, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        if self._pre_norm:
            x = x + layer.out(attend(layer.qkv(layer.norm1(x))))
            return x + self._feed_forward(layer, layer.norm2(x))
        x = layer.norm1(x + layer.out(attend(layer.qkv(x))))
        y: Tensor = layer.norm2(x + self._feed_forward(layer, x))
        return y

    def _feed_forward(self, layer: _Layer, x: Tensor) -> Tensor:
        if layer.gate is None:
            return layer.fc2(activate(layer.fc1(x), self._activation))
        return layer.fc2(activate(layer.gate(x), self._activation) * layer.fc1(x))

    def _packed(self, layer: nn.Module) -> _Layer:
        assert isinstance(layer, DecoderLayer)
        return _Layer(
            norm1=self._module(layer.norm1),
            qkv=self._linear(layer.q, layer.k, layer.v),
            out=self._linear(layer.out),
            norm2=self._module(layer.norm2),
            gate=self._optional(layer.gate),
            fc1=self._linear(layer.fc1),
            fc2=self._linear(layer.fc2),
        )

    def _optional(self, layer: nn.Linear | None) -> _Linear | None:
        return None if layer is None else self._linear(layer)

    def _linear(self, *parts: nn.Linear) -> _Linear:
        """One product of layers that read the same."""
        weights: list[Tensor] = [part.weight for part in parts]
        biases: list[Tensor | None] = [part.bias for part in parts]
        given = [bias for bias in biases if bias is not None]
        return _Linear(
            self._copied(torch.cat(weights)),
            self._copied(torch.cat(given)) if given else None,
        )

    def _module(self, module: nn.Module) -> nn.Module:
        return copy.deepcopy(module).to(self._device, self._dtype)

    def _copied(self, weight: Tensor) -> Tensor:
        return weight.detach().to(self._device, self._dtype)
