"""Attention of steps of one token a row: ONNX Runtime's GroupQueryAttention as CUDA has it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from altogether_rt.config import DecoderConfig
from altogether_rt.export.graph import GraphBuilder
from altogether_rt.export.lowering.attention import MICROSOFT, rotary_angles

__all__ = ["DecodeAttention", "DecodeState"]


class DecodeAttention:
    """GroupQueryAttention without `query_seqlens`, on the cache tensors of `ScatterAttention`.

    What the operator's CUDA kernel takes (1.31.1, the newest), and the CPU's for float16 too:

    - Batches of one new token a row, (B, 1, ·), queries, keys and values packed. `seqlens_k` is the
      number of cached tokens before the new one, so a row with an empty slot has 0.
    - `past` and `present` at one address are updated in place, and a row's own length is what its
      attention reads: flash attention from SM 80 on, memory-efficient attention before.
    - `total_sequence_length` is read on the host. As a constant, the size of a slot, it is no copy
      from the device in the middle of a step, and the step can be captured; it bounds the lengths
      and does not change results.
    - With `do_rotary`, cos and sin have the type of the activations and at least as many rows as
      `total_sequence_length`. Angles are those of `ScatterAttention` but rounded, so keys of
      prompts and of decode steps agree to float16's rounding.
    """

    def supports(self, config: DecoderConfig) -> bool:
        """Whether these operators compute a decoder; the other graph takes its steps if not."""
        multiple = 16 if config.position == "rotary" else 8
        return config.head_dim % multiple == 0 and config.head_dim <= 256

    def start(
        self, g: GraphBuilder, config: DecoderConfig, past_lengths: str, slot_positions: int
    ) -> DecodeState:
        """Compute what all layers share. past_lengths: int32 (B,)."""
        rotation = ("", "")
        if config.position == "rotary":
            angles = rotary_angles(config, max(config.max_positions, slot_positions))
            rotation = (
                g.weight("decode.rotary_cos", np.cos(angles).astype(np.float16)),
                g.weight("decode.rotary_sin", np.sin(angles).astype(np.float16)),
            )
        longest = g.constant([slot_positions], np.int32)
        return DecodeState(config, slot_positions, past_lengths, longest, rotation)


@dataclass(frozen=True)
class DecodeState:
    """The attention of one graph."""

    config: DecoderConfig
    slot_positions: int
    past_lengths: str
    longest: str
    rotation: tuple[str, str]

    def attend(self, g: GraphBuilder, qkv: str, layer: int) -> str:
        """Queries, keys and values (B, (heads + 2 kv_heads) D) -> (B, heads D)."""
        config, axis = self.config, g.constant([1], np.int64)
        shape = ("B", config.num_kv_heads, self.slot_positions, config.head_dim)
        names = [f"{kind}.{layer}" for kind in ("key", "value")]
        past = [g.input(f"past_{name}", np.float16, shape) for name in names]
        present = [f"present_{name}" for name in names]
        out, *_ = g.ops(
            "GroupQueryAttention",
            [f"attention.{layer}", *present],
            *(g.op("Unsqueeze", qkv, axis), "", ""),
            *past,
            self.past_lengths,
            self.longest,
            *self.rotation,
            domain=MICROSOFT,
            num_heads=config.heads,
            kv_num_heads=config.num_kv_heads,
            do_rotary=int(config.position == "rotary"),
        )
        for name in present:
            g.output(name, name, np.float16, shape)
        return g.op("Squeeze", out, axis)
