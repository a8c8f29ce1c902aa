"""Attention over the cache in standard operators: TensorScatter and Attention of opset 24.

What TensorRT makes an update of the cache in place and one fused kernel, and what any other ONNX
runtime computes too.
"""

from __future__ import annotations

import numpy as np
import onnx

from altogether_rt.config import DecoderConfig
from altogether_rt.errors import ConfigError
from altogether_rt.export.graph import GraphBuilder
from altogether_rt.export.lowering.attention import AttentionState

__all__ = ["SCATTER_OPSET", "ScatterAttention"]

SCATTER_OPSET = 24  # the first with these operators
_INT64 = int(onnx.TensorProto.INT64)


class ScatterAttention:
    """Rows padded to S write S places of their slot; every token sees itself and its own past.

    - A row's padding is written behind its end, where its next tokens overwrite it before anything
      can see it. `places >= past + S` must hold for every row.
    - The number of places stands in the graph, because TensorRT wants it so.
    - Unseen places are multiplied by zero, so the cache must start with finite numbers.
    - Who sees what is an explicit mask, (B, 1, S, places), shared by all layers. Attention's own
      causal rule would do as the standard has it since onnx 1.23 (aligned to the end of each row),
      but versions before, and other runtimes, align it to the start. The lengths beside the mask
      change no result; a kernel may skip what lies behind them.
    """

    min_chunk = 1
    cache_dtype = "float16"

    def check(self, config: DecoderConfig) -> None:
        """Raises ConfigError for a decoder that these operators cannot compute."""
        if config.position != "learned":
            raise ConfigError(
                f"decoder.position is {config.position!r}, but this target knows learned positions "
                "alone: export with cpu-int8 or cpu-fp32."
            )
        if config.head_dim % 8:
            raise ConfigError(
                f"decoder.width / decoder.heads is {config.head_dim}, but this target needs a "
                "multiple of 8: train with another number of heads."
            )

    def start(
        self,
        g: GraphBuilder,
        config: DecoderConfig,
        query_lengths: str,
        past_lengths: str,
        places: int,
    ) -> AttentionState:
        """See `AttentionLowering.start`."""
        write_at = g.op("Cast", past_lengths, to=_INT64)  # (B,)
        # A row without tokens is attended as if it had one: no row of the mask is empty.
        attended = g.op("Max", g.op("Cast", query_lengths, to=_INT64), g.constant(1, np.int64))
        return _ScatterState(config, places, write_at, lengths=g.op("Add", write_at, attended))


class _ScatterState:
    def __init__(self, config: DecoderConfig, places: int, write_at: str, lengths: str) -> None:
        self._config = config
        self._places = places
        self._write_at = write_at
        self._lengths = lengths  # (B,) places that hold tokens
        self._mask = ""

    def attend(self, g: GraphBuilder, qkv: str, layer: int) -> str:
        config = self._config
        kv_width = config.num_kv_heads * config.head_dim
        sizes = g.constant([config.width, kv_width, kv_width], np.int64)
        q, k, v = g.ops("Split", 3, qkv, sizes, axis=-1)
        query = self._heads(g, q, config.heads)
        keys, values = (
            self._cached(g, f"{kind}.{layer}", self._heads(g, new, config.num_kv_heads))
            for kind, new in (("key", k), ("value", v))
        )
        self._mask = self._mask or self._visible(g)
        cached = (keys, values, self._mask, "", "", self._lengths)
        mixed = g.op("Attention", query, *cached)  # (B, heads, S, D)
        mixed = g.op("Transpose", mixed, perm=[0, 2, 1, 3])
        return g.op("Reshape", mixed, g.constant([0, 0, config.width], np.int64))

    def _cached(self, g: GraphBuilder, name: str, new: str) -> str:
        """All keys or values of a layer, the new ones written behind the past."""
        config = self._config
        shape = ("B", config.num_kv_heads, self._places, config.head_dim)
        past, present = g.input(f"past_{name}", np.float16, shape), f"present_{name}"
        g.ops("TensorScatter", [present], past, new, self._write_at, axis=-2, mode="linear")
        g.output(present, present, np.float16, shape)
        return present

    def _heads(self, g: GraphBuilder, x: str, heads: int) -> str:
        """(B, S, heads D) -> (B, heads, S, D)."""
        shape = g.constant([0, 0, heads, self._config.head_dim], np.int64)
        return g.op("Transpose", g.op("Reshape", x, shape), perm=[0, 2, 1, 3])

    def _visible(self, g: GraphBuilder) -> str:
        """Which places of its slot each token sees, bool (B, 1, S, places)."""
        # A token sees up to its own place; padding repeats the row's last token. No shape is asked
        # for: that would be computed on the processor in the middle of a step.
        reach = g.op("Gather", "positions", "pad_index", axis=0)  # (B, S)
        reach = g.op("Unsqueeze", reach, g.constant([1, 3], np.int64))  # (B, 1, S, 1)
        places = g.weight("decoder.places", np.arange(self._places))
        return g.op("LessOrEqual", places, reach)
