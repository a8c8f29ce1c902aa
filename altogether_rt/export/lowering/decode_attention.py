"""Attention on ONNX Runtime's CUDA kernel GroupQueryAttention: of new prompts, of single tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from altogether_rt.config import DecoderConfig
from altogether_rt.export.graph import GraphBuilder
from altogether_rt.export.lowering.attention import MICROSOFT, rotary_angles

__all__ = ["DecodeAttention", "DecodeState"]


class DecodeAttention:
    """GroupQueryAttention without `query_seqlens`, on the cache tensors of `ScatterAttention`.

    What the operator's CUDA kernel takes (1.31.1, the newest), and the CPU's for float16 too;
    queries, keys and values are packed in one tensor:

    - One new token a row, (B, 1, ·). `seqlens_k` is the number of cached tokens before the new one,
      so a row with an empty slot has 0.
    - Prompts of any number of rows, (B, S, ·), padded on the right, in slots that are empty: a call
      with several tokens a row is one of those where `total_sequence_length` is S. `seqlens_k` is a
      row's length less one; keys and values are written from the start of its slot on, those of
      padding too, and a token attends to itself and the tokens before it. Several tokens behind
      cached ones it takes in one row only, so drafts remain with the other graph.
    - `past` and `present` at one address are updated in place, and a row's own length is what the
      attention of a single token reads: flash attention from SM 80 on, memory-efficient attention
      before.
    - `total_sequence_length` is read on the host. For single tokens it is a constant, the size of a
      slot: no copy from the device in the middle of a step, which can be captured; it bounds the
      lengths and does not change results. For prompts it is an input in host memory.
    - With `do_rotary`, cos and sin have the type of the activations and at least as many rows as
      `total_sequence_length`. Angles are those of `ScatterAttention` but rounded, so keys of
      all graphs agree to float16's rounding.
    """

    def supports(self, config: DecoderConfig) -> bool:
        """Whether these operators compute a decoder; the other graph takes its steps if not."""
        multiple = 16 if config.position == "rotary" else 8
        return config.head_dim % multiple == 0 and config.head_dim <= 256

    def start_steps(
        self, g: GraphBuilder, config: DecoderConfig, past_lengths: str, slot_positions: int
    ) -> DecodeState:
        """Compute what all layers share, for one token a row. past_lengths: int32 (B,)."""
        longest = g.constant([slot_positions], np.int32)
        rotation = _rotation(g, config, slot_positions)
        return DecodeState(config, slot_positions, past_lengths, longest, rotation)

    def start_prompts(
        self,
        g: GraphBuilder,
        config: DecoderConfig,
        query_lengths: str,
        longest: str,
        slot_positions: int,
    ) -> DecodeState:
        """Compute what all layers share, for prompts. query_lengths: int32 (B,), at least 1 each;
        longest: int32 (1,) in host memory, S."""
        last_index = g.op("Sub", query_lengths, g.constant(1, np.int32))
        rotation = _rotation(g, config, slot_positions)
        return DecodeState(config, slot_positions, last_index, longest, rotation)


def _rotation(g: GraphBuilder, config: DecoderConfig, slot_positions: int) -> tuple[str, str]:
    if config.position != "rotary":
        return ("", "")
    angles = rotary_angles(config, max(config.max_positions, slot_positions))
    return (
        g.weight("decode.rotary_cos", np.cos(angles).astype(np.float16)),
        g.weight("decode.rotary_sin", np.sin(angles).astype(np.float16)),
    )


@dataclass(frozen=True)
class DecodeState:
    """The attention of one graph."""

    config: DecoderConfig
    slot_positions: int
    last_index: str
    longest: str
    rotation: tuple[str, str]

    def attend(self, g: GraphBuilder, qkv: str, layer: int) -> str:
        """Queries, keys and values (B, S, (heads + 2 kv_heads) D) -> (B, S, heads D)."""
        config = self.config
        shape = ("B", config.num_kv_heads, self.slot_positions, config.head_dim)
        names = [f"{kind}.{layer}" for kind in ("key", "value")]
        past = [g.input(f"past_{name}", np.float16, shape) for name in names]
        present = [f"present_{name}" for name in names]
        out, *_ = g.ops(
            "GroupQueryAttention",
            [f"attention.{layer}", *present],
            *(qkv, "", ""),
            *past,
            self.last_index,
            self.longest,
            *self.rotation,
            domain=MICROSOFT,
            num_heads=config.heads,
            kv_num_heads=config.num_kv_heads,
            do_rotary=int(config.position == "rotary"),
        )
        for name in present:
            g.output(name, name, np.float16, shape)
        return out
