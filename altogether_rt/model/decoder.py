"""The causal language model that generates captions, described by `DecoderConfig` alone.

Two entry points, one set of weights: `Decoder.forward` runs whole sequences (training), and
`Decoder.step` runs a ragged batch of new tokens against an explicit key/value cache (generation).
Everything is tensors in and tensors out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from altogether_rt.config import DecoderConfig

__all__ = ["Decoder", "DecoderLayer", "KVCache", "activate"]

INIT_STD = 0.02  # of OPT and GPT-2


@dataclass
class KVCache:
    """Keys and values of fixed slots, one sequence per slot.

    Layout: keys and values are (layers, slots, kv_heads, capacity, head_dim), and
    position p of a slot belongs to the p-th token of its sequence. The cache does not store
    lengths: the caller passes `past_lengths` with every step, so that dropping tokens means passing
    a smaller length and never a copy.
    """

    keys: Tensor
    values: Tensor

    @classmethod
    def zeros(
        cls,
        config: DecoderConfig,
        slots: int,
        capacity: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> KVCache:
        """An empty cache of `slots` sequences of up to `capacity` tokens."""
        shape = (config.layers, slots, config.num_kv_heads, capacity, config.head_dim)
        keys = torch.zeros(shape, device=device, dtype=dtype)
        return cls(keys, torch.zeros_like(keys))

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]


@dataclass
class _Positions:
    """Positions of one call's tokens, the same for all layers."""

    rotation: tuple[Tensor, Tensor] | None  # cos, sin: (1 or B, 1, S, D); None: not rotary
    visible: Tensor | None  # (B, 1, S, K) cache positions that each query attends to; None: causal
    written: tuple[Tensor, Tensor, Tensor] | None  # real tokens: (row, index in S, cache position)


class DecoderLayer(nn.Module):
    """Self-attention and feed-forward, each with its norm and its residual."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width, kv_width = config.width, config.num_kv_heads * config.head_dim
        self.head_dim = config.head_dim
        self.grouped = config.num_kv_heads != config.heads
        self.pre_norm = config.norm_placement == "pre"
        self.activation = config.activation
        self.norm1 = _norm(config)
        self.q = nn.Linear(width, width, bias=config.bias)
        self.k = nn.Linear(width, kv_width, bias=config.bias)
        self.v = nn.Linear(width, kv_width, bias=config.bias)
        self.out = nn.Linear(width, width, bias=config.bias)
        self.norm2 = _norm(config)
        self.gate = nn.Linear(width, config.ffn_width, bias=config.bias) if config.gated else None
        self.fc1 = nn.Linear(width, config.ffn_width, bias=config.bias)
        self.fc2 = nn.Linear(config.ffn_width, width, bias=config.bias)

    def forward(
        self, x: Tensor, positions: _Positions, cache: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """x (B, S, W) -> (B, S, W); `cache` is this layer's keys and values, updated in place."""
        if self.pre_norm:
            x = x + self.attend(self.norm1(x), positions, cache)
            return x + self.feed_forward(self.norm2(x))
        x = self.norm1(x + self.attend(x, positions, cache))
        out: Tensor = self.norm2(x + self.feed_forward(x))
        return out

    def attend(
        self, x: Tensor, positions: _Positions, cache: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, -1, self.head_dim).transpose(1, 2)  # (B, heads, S, D)
            for part in (self.q(x), self.k(x), self.v(x))
        )
        if positions.rotation is not None:
            q, k = _rotate(q, *positions.rotation), _rotate(k, *positions.rotation)
        if cache is not None and positions.written is not None and positions.visible is not None:
            row, index, cached = positions.written
            keys, values = cache  # (slots, kv_heads, capacity, D)
            keys[row, :, cached] = k[row, :, index].to(keys.dtype)
            values[row, :, cached] = v[row, :, index].to(values.dtype)
            reach = positions.visible.shape[-1]
            k, v = keys[:batch, :, :reach].to(q.dtype), values[:batch, :, :reach].to(q.dtype)
        mixed = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=positions.visible,
            is_causal=positions.visible is None,
            enable_gqa=self.grouped,
        )
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return out

    def feed_forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            hidden = activate(self.fc1(x), self.activation)
        else:
            hidden = activate(self.gate(x), self.activation) * self.fc1(x)
        out: Tensor = self.fc2(hidden)
        return out


class Decoder(nn.Module):
    """Token embeddings in, next-token logits out; `W` below is the config's token_width."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        token_width, width = config.token_width, config.width
        self.embed = nn.Embedding(config.vocab_size, token_width)
        learned = config.position == "learned"
        table = config.max_positions + config.position_offset
        self.positions = nn.Embedding(table, width) if learned else None
        projected = config.embed_width is not None
        self.project_in = nn.Linear(token_width, width, bias=False) if projected else None
        self.project_out = nn.Linear(width, token_width, bias=False) if projected else None
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = _norm(config) if config.final_norm else None
        tied = config.tied_head
        self.head = None if tied else nn.Linear(token_width, config.vocab_size, bias=False)
        #: In training: keep the layers' inputs alone, and compute each layer again for gradients.
        self.gradient_checkpointing = False
        self.apply(_initialise)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Whole sequences from their start: embeddings (B, S, W) -> hidden (B, S, W).

        Shorter sequences are padded on the right. Attention is causal, so no real position sees
        that padding and no mask is needed; outputs at padded positions are meaningless.
        """
        length = embeddings.shape[1]
        assert length <= self.config.max_positions, "the sequence is longer than max_positions"
        at = torch.arange(length, device=embeddings.device)[None]  # (1, S)
        positions = _Positions(self._rotation(at), visible=None, written=None)
        return self._run(embeddings, at, positions, cache=None)

    def step(
        self, embeddings: Tensor, query_lengths: Tensor, past_lengths: Tensor, cache: KVCache
    ) -> tuple[Tensor, KVCache]:
        """New tokens of slots 0..B-1: embeddings (B, S, W) -> hidden (B, S, W), and the cache.

        Row b starts with `query_lengths[b]` real tokens, which follow the `past_lengths[b]` tokens
        already in slot b; prefill, decode and verification of drafts are all this one call. The
        cache is updated in place at the positions of the real tokens and nowhere else.
        """
        batch, length, _ = embeddings.shape
        device = embeddings.device
        column = torch.arange(length, device=device)
        at = past_lengths[:, None] + column  # (B, S) position of each token in its sequence
        real = column < query_lengths[:, None]  # (B, S)
        reach = int((past_lengths + query_lengths).max()) if batch else 0
        assert reach <= cache.capacity, "a sequence is longer than its cache slot"
        visible = torch.arange(max(reach, 1), device=device) <= at[..., None]  # (B, S, K)
        row, index = real.nonzero(as_tuple=True)
        # Padded tokens get a valid position; their outputs are discarded.
        at = at.clamp(max=self.config.max_positions - 1)
        positions = _Positions(self._rotation(at), visible[:, None], (row, index, at[row, index]))
        return self._run(embeddings, at, positions, cache), cache

    def decode(self, embeddings: Tensor, past_lengths: Tensor, cache: KVCache) -> Tensor:
        """`step` with one token in each row, embeddings (B, 1, W) -> hidden (B, 1, W).

        Control flow does not depend on values, and sizes depend on B alone, so this can be captured
        as a CUDA graph. The caller makes sure that there is room in the slots.
        """
        batch, device = len(embeddings), embeddings.device
        at = past_lengths[:, None]  # (B, 1)
        visible = torch.arange(cache.capacity, device=device) <= at[..., None]  # (B, 1, K)
        row = torch.arange(batch, device=device)
        written = (row, torch.zeros_like(row), past_lengths)
        positions = _Positions(self._rotation(at), visible[:, None], written)
        return self._run(embeddings, at, positions, cache)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., W) -> next-token logits (..., vocab_size)."""
        weight = self.embed.weight if self.head is None else self.head.weight
        return F.linear(hidden, weight)

    def _run(self, x: Tensor, at: Tensor, positions: _Positions, cache: KVCache | None) -> Tensor:
        if self.project_in is not None:
            x = self.project_in(x)
        if self.positions is not None:
            x = x + self.positions(at + self.config.position_offset)
        for index, layer in enumerate(self.layers):
            if self.gradient_checkpointing and self.training and cache is None:
                x = checkpoint(layer, x, positions, None, use_reentrant=False)
            else:
                x = layer(x, positions, cache and (cache.keys[index], cache.values[index]))
        if self.norm is not None:
            x = self.norm(x)
        return x if self.project_out is None else self.project_out(x)

    def _rotation(self, at: Tensor) -> tuple[Tensor, Tensor] | None:
        """cos and sin (.., 1, S, D) of rotary positions (Su et al. 2021, arXiv 2104.09864)."""
        if self.config.position != "rotary":
            return None
        half = torch.arange(0, self.config.head_dim, 2, device=at.device, dtype=torch.float32)
        frequency = self.config.rope_theta ** -(half / self.config.head_dim)
        angle = at[:, None, :, None].float() * torch.cat([frequency, frequency])
        return angle.cos(), angle.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + D/2) of each head by their angle; Llama's layout of the pairs."""
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat([-second, first], dim=-1)
    return x * cos.to(x.dtype) + rotated * sin.to(x.dtype)


def _norm(config: DecoderConfig) -> nn.Module:
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.width, eps=config.norm_eps)
    return nn.LayerNorm(config.width, eps=config.norm_eps)


def activate(x: Tensor, name: str) -> Tensor:
    """The feed-forward activation `DecoderConfig.activation`, of each element."""
    if name == "gelu_tanh":
        return F.gelu(x, approximate="tanh")
    if name == "gelu":
        return F.gelu(x)
    return F.silu(x) if name == "silu" else F.relu(x)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
