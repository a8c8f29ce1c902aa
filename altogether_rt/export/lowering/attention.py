"""Causal attention over the cache, in the operators of a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from altogether_rt.config import DecoderConfig
from altogether_rt.errors import ConfigError
from altogether_rt.export.graph import GraphBuilder

__all__ = [
    "MICROSOFT",
    "AttentionLowering",
    "AttentionState",
    "CacheScales",
    "GroupQueryAttention",
]

MICROSOFT = "com.microsoft"
_INT32 = int(onnx.TensorProto.INT32)


class AttentionState(Protocol):
    """The attention of one graph, after what all layers share has been computed."""

    def attend(self, g: GraphBuilder, qkv: str, layer: int) -> str:
        """Concatenated queries, keys, values, (B, S, (heads + 2 kv_heads) D) -> (B, S, heads D).

        Writes keys and values to the layer's cache tensors `past_key.N`/`present_key.N` (`value`).
        """


class AttentionLowering(Protocol):
    """How a target computes attention."""

    @property
    def min_chunk(self) -> int:
        """Minimum of S, the length of a row in the padded view."""

    @property
    def cache_dtype(self) -> str:
        """NumPy's name of the cache's element type."""

    def check(self, config: DecoderConfig) -> None:
        """Raises ConfigError for a decoder that these operators cannot compute."""

    def start(
        self,
        g: GraphBuilder,
        config: DecoderConfig,
        query_lengths: str,
        past_lengths: str,
        slot_positions: int,
    ) -> AttentionState:
        """Compute what all layers share; both lengths are int32 (B,).

        slot_positions: tokens in a cache slot, for operators that need a fixed number.
        """


@dataclass(frozen=True)
class CacheScales:
    """Scales of an int8 cache by layer, (kv_heads, head_dim) each."""

    keys: Sequence[NDArray[np.float32]]
    values: Sequence[NDArray[np.float32]]


class GroupQueryAttention:
    """ONNX Runtime's GroupQueryAttention with its input `query_seqlens` (from 1.32 on CPU).

    The operator's contract, from experiments on 1.32.0 and its documentation:

    - Queries are padded on the right, (B, S, ·). Row b has `query_seqlens[b]` real queries, which
      follow `seqlens_k[b] + 1 - query_seqlens[b]` cached tokens. The output of padding is
      unspecified.
    - B must equal the leading dimension of past and present; a leading slice of a larger buffer is
      accepted.
    - A row may have no query if its slot is not empty (`seqlens_k >= 0`).
    - past + S <= slot size must hold for every row, where S is the padded length: a slot needs room
      for the longest chunk beyond its capacity, although nothing is written there.
    - `total_sequence_length` is only an upper bound of past + new and does not change results.
    - A row's results are bit for bit the same in any batch, at any S, for any number of queries,
      *except* that a row with a single query uses another kernel (matrix times vector) whose sums
      differ in the last bit, and that S = 1 uses a third one.

    Rows are therefore computed as if they had at least two queries. The second query is padding:
    what it writes after the row's end is overwritten by the next token before anything reads it.
    Plain decoding, verification of drafts and prefill then agree bit for bit, at the cost of a few
    percent of a step's time.

    An int8 cache does not need this: its kernel is the same for any number of queries, and a token
    attends to itself and to the tokens of its own chunk as they are stored. It reads a quarter of
    the bytes and takes half the time at 16 rows.
    """

    def __init__(self, *, int8_cache: bool = False, scales: CacheScales | None = None) -> None:
        """scales: of an int8 cache; required by `start`, not by the other methods."""
        self._int8_cache = int8_cache
        self._scales = scales

    @property
    def min_chunk(self) -> int:
        """Minimum of S, the length of a row in the padded view."""
        return 1 if self._int8_cache else 2

    @property
    def cache_dtype(self) -> str:
        """NumPy's name of the cache's element type."""
        return "int8" if self._int8_cache else "float32"

    def check(self, config: DecoderConfig) -> None:
        """Raises ConfigError for a decoder that these operators cannot compute."""
        multiple = 16 if config.position == "rotary" else 8
        if config.head_dim % multiple:
            raise ConfigError(
                f"decoder.width / decoder.heads is {config.head_dim}, but this target needs a "
                f"multiple of {multiple}: train with another number of heads."
            )

    def start(
        self,
        g: GraphBuilder,
        config: DecoderConfig,
        query_lengths: str,
        past_lengths: str,
        slot_positions: int,
    ) -> AttentionState:
        assert not self._int8_cache or self._scales is not None, "an int8 cache needs scales"
        attended = query_lengths
        if self.min_chunk > 1:
            attended = g.op("Max", query_lengths, g.constant(self.min_chunk, np.int32))  # (B,)
        lengths = g.op("Add", past_lengths, attended)
        # At least the padded length, which a runtime may choose longer than its longest row.
        chunk = g.op("Cast", g.op("Shape", "pad_index", start=1, end=2), to=_INT32)
        longest = g.op("Max", g.op("ReduceMax", lengths, keepdims=1), chunk)
        return _GroupQueryState(
            config,
            query_lengths=attended,
            last_index=g.op("Sub", lengths, g.constant(1, np.int32)),
            longest=longest,
            rotation=self._rotation(g, config),
            scales=self._scales if self._int8_cache else None,
        )

    def _rotation(self, g: GraphBuilder, config: DecoderConfig) -> tuple[str, str]:
        if config.position != "rotary":
            return ("", "")
        angles = rotary_angles(config, config.max_positions + self.min_chunk)
        return (
            g.weight("decoder.rotary_cos", np.cos(angles)),
            g.weight("decoder.rotary_sin", np.sin(angles)),
        )


class _GroupQueryState:
    def __init__(
        self,
        config: DecoderConfig,
        *,
        query_lengths: str,
        last_index: str,
        longest: str,
        rotation: tuple[str, str],
        scales: CacheScales | None,
    ) -> None:
        self._config = config
        self._query_lengths = query_lengths
        self._last_index = last_index
        self._longest = longest
        self._rotation = rotation
        self._scales = scales

    def attend(self, g: GraphBuilder, qkv: str, layer: int) -> str:
        config = self._config
        # "places" is a name in the graph file: the tokens in a cache slot.
        shape = ("B", config.num_kv_heads, "places", config.head_dim)
        dtype = np.float32 if self._scales is None else np.int8
        past = [g.input(f"past_{kind}.{layer}", dtype, shape) for kind in ("key", "value")]
        present = [f"present_{kind}.{layer}" for kind in ("key", "value")]
        packed = (qkv, "", "")
        absent = ("",) * 3  # position ids, bias, sink
        scales, quantization = self._quantization(g, layer)
        out, *_ = g.ops(
            "GroupQueryAttention",
            [f"attention.{layer}", *present],
            *packed,
            *past,
            self._last_index,
            self._longest,
            *self._rotation,
            *absent,
            *scales,
            *("", ""),  # norms
            self._query_lengths,
            domain=MICROSOFT,
            num_heads=config.heads,
            kv_num_heads=config.num_kv_heads,
            do_rotary=int(config.position == "rotary"),
            **quantization,
        )
        for name in present:
            g.output(name, name, dtype, shape)
        return out

    def _quantization(self, g: GraphBuilder, layer: int) -> tuple[tuple[str, str], dict[str, Any]]:
        """The inputs and attributes that describe how the cache is stored."""
        if self._scales is None:
            return ("", ""), {}
        keys, values = (
            g.weight(f"decoder.layers.{layer}.{kind}_scale", scales[layer].reshape(-1))
            for kind, scales in (("key", self._scales.keys), ("value", self._scales.values))
        )
        per_channel = {f"{part}_quant_type": "PER_CHANNEL" for part in ("k", "v")}
        return (keys, values), {**per_channel, "kv_cache_bit_width": 8}


def rotary_angles(config: DecoderConfig, num_positions: int) -> NDArray[np.float32]:
    """The angle of each pair of channels at each position, (num_positions, head_dim / 2)."""
    half = np.arange(0, config.head_dim, 2, dtype=np.float32)
    frequency = config.rope_theta ** -(half / config.head_dim)
    angles: NDArray[np.float32] = (np.arange(num_positions)[:, None] * frequency).astype(np.float32)
    return angles
