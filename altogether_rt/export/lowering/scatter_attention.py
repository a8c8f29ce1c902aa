"""Attention over the cache in standard operators: TensorScatter and Attention of opset 24.

TensorRT turns these into an update of the cache in place and one fused kernel. Any other ONNX
runtime can compute them too.
"""

from __future__ import annotations

import numpy as np
import onnx

from altogether_rt.config import DecoderConfig
from altogether_rt.errors import ConfigError
from altogether_rt.export.graph import GraphBuilder
from altogether_rt.export.lowering.attention import AttentionState, rotary_angles

__all__ = ["SCATTER_OPSET", "ScatterAttention"]

SCATTER_OPSET = 24  # the first with these operators
_INT64 = int(onnx.TensorProto.INT64)
_FLOAT, _HALF = int(onnx.TensorProto.FLOAT), int(onnx.TensorProto.FLOAT16)


class ScatterAttention:
    """A row padded to S writes S positions of its slot; a token attends to itself and its past.

    - A row's padding is written after its end, where its next tokens overwrite it before anything
      attends to it. `slot_positions >= past + S` must hold for every row.
    - The slot size is a constant of the graph, because TensorRT requires that.
    - Masked positions are multiplied by zero, so the cache must start with finite numbers.
    - Rotary positions turn queries and keys together, in float32, before the keys are cached.
    - The mask is explicit, (B, 1, S, slot_positions), and shared by all layers. The operator's own
      causal mask would serve as the standard defines it since onnx 1.23 (aligned to the end of each
      row), but earlier versions and other runtimes align it to the start. The lengths passed with
      the mask do not change results; they let a kernel skip what comes after them.
    """

    min_chunk = 1
    cache_dtype = "float16"

    def check(self, config: DecoderConfig) -> None:
        """Raises ConfigError for a decoder that these operators cannot compute."""
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
        slot_positions: int,
    ) -> AttentionState:
        """See `AttentionLowering.start`."""
        write_at = g.op("Cast", past_lengths, to=_INT64)  # (B,)
        # A row without tokens is treated as if it had one, so that no row of the mask is empty.
        attended = g.op("Max", g.op("Cast", query_lengths, to=_INT64), g.constant(1, np.int64))
        return _ScatterState(
            config,
            slot_positions,
            write_at,
            lengths=g.op("Add", write_at, attended),
            rotation=_rotation(g, config),
        )


def _rotation(g: GraphBuilder, config: DecoderConfig) -> tuple[str, str] | None:
    """cos and sin of each token's angles, float32 (B, S, 1, D/2); None if not rotary."""
    if config.position != "rotary":
        return None
    angles = rotary_angles(config, config.max_positions)
    tables = {"cos": np.cos(angles), "sin": np.sin(angles)}

    def of_tokens(name: str) -> str:
        packed = g.op("Gather", g.weight(f"decoder.rotary_{name}", tables[name]), "positions")
        padded = g.op("Gather", packed, "pad_index", axis=0)  # (B, S, D/2)
        return g.op("Unsqueeze", padded, g.constant([2], np.int64))

    return of_tokens("cos"), of_tokens("sin")


class _ScatterState:
    def __init__(
        self,
        config: DecoderConfig,
        slot_positions: int,
        write_at: str,
        lengths: str,
        rotation: tuple[str, str] | None,
    ) -> None:
        self._config = config
        self._slot_positions = slot_positions
        self._write_at = write_at
        self._lengths = lengths  # (B,) tokens in each slot, the new ones included
        self._rotation = rotation
        self._mask = ""

    def attend(self, g: GraphBuilder, qkv: str, layer: int) -> str:
        config = self._config
        kv_width = config.num_kv_heads * config.head_dim
        if self._rotation is not None:
            qkv = self._rotate(g, qkv, *self._rotation)
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

    def _rotate(self, g: GraphBuilder, qkv: str, cos: str, sin: str) -> str:
        """Queries and keys, turned by the angles of their positions; values as they are.

        The halves of a head's channels are the two coordinates, as in Llama.
        """
        config = self._config
        kv_width = config.num_kv_heads * config.head_dim
        sizes = g.constant([config.width + kv_width, kv_width], np.int64)
        turned, values = g.ops("Split", 2, qkv, sizes, axis=-1)
        shape = g.constant([0, 0, config.heads + config.num_kv_heads, config.head_dim], np.int64)
        wide = g.op("Cast", g.op("Reshape", turned, shape), to=_FLOAT)
        x, y = g.ops("Split", 2, wide, axis=-1, num_outputs=2)  # (B, S, heads + kv heads, D/2)
        x, y = (
            g.op("Sub", g.op("Mul", x, cos), g.op("Mul", y, sin)),
            g.op("Add", g.op("Mul", y, cos), g.op("Mul", x, sin)),
        )
        turned = g.op("Cast", g.op("Concat", x, y, axis=-1), to=_HALF)
        turned = g.op("Reshape", turned, g.constant([0, 0, config.width + kv_width], np.int64))
        return g.op("Concat", turned, values, axis=-1)

    def _cached(self, g: GraphBuilder, name: str, new: str) -> str:
        """All keys or values of a layer, with the new ones written after the past."""
        config = self._config
        shape = ("B", config.num_kv_heads, self._slot_positions, config.head_dim)
        past, present = g.input(f"past_{name}", np.float16, shape), f"present_{name}"
        g.ops("TensorScatter", [present], past, new, self._write_at, axis=-2, mode="linear")
        g.output(present, present, np.float16, shape)
        return present

    def _heads(self, g: GraphBuilder, x: str, heads: int) -> str:
        """(B, S, heads D) -> (B, heads, S, D)."""
        shape = g.constant([0, 0, heads, self._config.head_dim], np.int64)
        return g.op("Transpose", g.op("Reshape", x, shape), perm=[0, 2, 1, 3])

    def _visible(self, g: GraphBuilder) -> str:
        """The mask of the positions that each token attends to, bool (B, 1, S, slot_positions)."""
        # A token attends up to its own position; padding repeats the row's last token. There is no
        # Shape operator: the CPU would compute it in the middle of a step.
        reach = g.op("Gather", "positions", "pad_index", axis=0)  # (B, S)
        reach = g.op("Unsqueeze", reach, g.constant([1, 3], np.int64))  # (B, 1, S, 1)
        # "decoder.places" is a name in the graph file.
        positions = g.weight("decoder.places", np.arange(self._slot_positions))
        return g.op("LessOrEqual", positions, reach)
