"""Writes the decoder's graph from its configuration; the lowering decides the precision.

One graph serves prefill, decode and draft verification. All layers but attention work on packed
tokens, (T, width); attention works on the padded view (B, S, width), made by two gathers. The
layouts of the weights are those of `altogether_rt.model.decoder`.

A target may have two more graphs of the same weights, where attention may have a faster kernel: for
steps of one token a row, which need no padded view, and for new prompts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from altogether_rt.config import DecoderConfig
from altogether_rt.export.graph import GraphBuilder
from altogether_rt.export.lowering.base import Lowering
from altogether_rt.export.weights import WeightSource

__all__ = ["build_decode_step", "build_decoder", "build_prompts"]

#: Attention of a layer: queries, keys and values of all tokens (T, ·), and the layer -> (T, width).
Attend = Callable[[str, int], str]
#: The same of rows, (B, S, ·) -> (B, S, width), as the operators of a target have it.
AttendRows = Callable[[GraphBuilder, str, int], str]


def build_decoder(
    g: GraphBuilder,
    config: DecoderConfig,
    weights: WeightSource,
    lowering: Lowering,
    slot_positions: int,
) -> None:
    """Add the decoder to `g`, with the inputs and outputs that `runtime.cpu.runtime` binds.

    slot_positions: tokens in a cache slot, for attention that fixes the number in the graph.
    """
    emit, x = _embedded(g, config, weights, lowering)
    query_lengths = g.input("query_lengths", np.int32, ["B"])
    past_lengths = g.input("past_lengths", np.int32, ["B"])
    attention = lowering.attention.start(g, config, query_lengths, past_lengths, slot_positions)
    emit.choose_padded(x, attention.attend)


def build_prompts(
    g: GraphBuilder,
    config: DecoderConfig,
    weights: WeightSource,
    lowering: Lowering,
    slot_positions: int,
) -> None:
    """Add prompts in the empty slots 0..B-1 to `g`, on the same cache tensors.

    Inputs: those of `build_decoder` but for past_lengths, and longest (1,), int32 in host memory:
    S. Every row brings at least one token. Weights are named as in `build_decoder`.
    """
    assert lowering.prompts is not None, "this target has no graph for prompts"
    emit, x = _embedded(g, config, weights, lowering)
    query_lengths = g.input("query_lengths", np.int32, ["B"])
    longest = g.input("longest", np.int32, ["1"])
    attention = lowering.prompts.start_prompts(g, config, query_lengths, longest, slot_positions)
    emit.choose_padded(x, attention.attend)


def _embedded(
    g: GraphBuilder, config: DecoderConfig, weights: WeightSource, lowering: Lowering
) -> tuple[_DecoderEmitter, str]:
    """Packed tokens with visual ones among them, (T, width), and their inputs."""
    token_ids = g.input("token_ids", np.int64, ["T"])
    positions = g.input("positions", np.int64, ["T"])
    visual_tokens = g.input("visual_tokens", np.float32, ["V", config.token_width])
    visual_index = g.input("visual_index", np.int64, ["V"])
    emit = _DecoderEmitter(g, config, weights, lowering)
    x = emit.with_visual_tokens(emit.lookup(token_ids), visual_tokens, visual_index)
    return emit, emit.with_positions(x, positions)


def build_decode_step(
    g: GraphBuilder,
    config: DecoderConfig,
    weights: WeightSource,
    lowering: Lowering,
    slot_positions: int,
) -> None:
    """Add to `g` a step of one token for each of the slots 0..B-1, on the same cache tensors.

    Inputs: token_ids (B,), past_lengths (B,) tokens in each slot. Outputs: greedy_ids (B,), logits
    (B, vocab). The names of the weights are those of `build_decoder`, so that both share them.
    """
    assert lowering.decode is not None, "this target has no graph for decode steps"
    token_ids = g.input("token_ids", np.int64, ["B"])
    past_lengths = g.input("past_lengths", np.int32, ["B"])
    emit = _DecoderEmitter(g, config, weights, lowering)
    x = emit.with_positions(
        emit.lookup(token_ids), g.op("Cast", past_lengths, to=int(onnx.TensorProto.INT64))
    )
    attention = lowering.decode.start_steps(g, config, past_lengths, slot_positions)
    axis = g.constant([1], np.int64)

    def attend(qkv: str, layer: int) -> str:
        return g.op("Squeeze", attention.attend(g, g.op("Unsqueeze", qkv, axis), layer), axis)

    emit.choose(emit.layers(x, attend), "B")


class _DecoderEmitter:
    def __init__(
        self, g: GraphBuilder, config: DecoderConfig, weights: WeightSource, lowering: Lowering
    ) -> None:
        self.g = g
        self.config = config
        self.weights = weights
        self.lowering = lowering
        self.activations = lowering.activations
        table = weights.get("decoder.embed.weight")
        self.tokens = lowering.table.table(g, "decoder.embed", table, as_head=config.tied_head)

    def lookup(self, token_ids: str) -> str:
        """Token embeddings, (T, token width)."""
        return self.lowering.table.lookup(self.g, self.tokens, token_ids)

    def with_visual_tokens(self, x: str, visual_tokens: str, visual_index: str) -> str:
        """Visual tokens (V, token width) in place of the embeddings at their indices."""
        g = self.g
        indices = g.op("Unsqueeze", visual_index, g.constant([1], np.int64))  # (V, 1)
        return g.op("ScatterND", x, indices, self.activations.narrow(g, visual_tokens))

    def with_positions(self, x: str, positions: str) -> str:
        """(T, token width) -> (T, width) with learned positions added, if there are any."""
        g, config, table = self.g, self.config, self.lowering.table
        if config.embed_width is not None:
            x = self.linear(x, "project_in")
        if config.position == "learned":
            # Rows before the offset are for padding tokens, which packed sequences do not have.
            rows = self.weights.get("decoder.positions.weight")[config.position_offset :]
            learned = table.table(g, "decoder.positions", rows, as_head=False)
            x = g.op("Add", x, table.lookup(g, learned, positions))
        return x

    def layers(self, x: str, attend: Attend) -> str:
        """All blocks over packed tokens, (T, width) -> (T, width)."""
        for index in range(self.config.layers):
            x = self.layer(x, index, attend)
        return x

    def layer(self, x: str, index: int, attend: Attend) -> str:
        """One block over packed tokens, (T, width) -> (T, width)."""
        g, name = self.g, f"layers.{index}"

        def mix(x: str) -> str:
            qkv = self.linear(x, f"{name}.q", f"{name}.k", f"{name}.v")
            return self.linear(attend(qkv, index), f"{name}.out")

        if self.config.norm_placement == "pre":
            x = g.op("Add", x, mix(self.norm(x, f"{name}.norm1")))
            return g.op("Add", x, self.feed_forward(self.norm(x, f"{name}.norm2"), name))
        x = self.norm(g.op("Add", x, mix(x)), f"{name}.norm1")
        return self.norm(g.op("Add", x, self.feed_forward(x, name)), f"{name}.norm2")

    def feed_forward(self, x: str, name: str) -> str:
        if not self.config.gated:
            return self.linear(self.activate(self.linear(x, f"{name}.fc1")), f"{name}.fc2")
        both = self.linear(x, f"{name}.gate", f"{name}.fc1")
        gate, up = self.g.ops("Split", 2, both, axis=-1, num_outputs=2)
        return self.linear(self.g.op("Mul", self.activate(gate), up), f"{name}.fc2")

    def choose_padded(self, x: str, attend_rows: AttendRows) -> None:
        """All blocks over packed tokens (T, width), whose attention sees them padded to rows, and
        the outputs after the tokens that are asked for."""
        g, config = self.g, self.config
        pad_index = g.input("pad_index", np.int64, ["B", "S"])
        unpad_index = g.input("unpad_index", np.int64, ["T"])
        logit_index = g.input("logit_index", np.int64, ["L"])

        def attend(qkv: str, layer: int) -> str:
            padded = attend_rows(g, g.op("Gather", qkv, pad_index, axis=0), layer)
            flat = g.op("Reshape", padded, g.constant([-1, config.width], np.int64))
            return g.op("Gather", flat, unpad_index, axis=0)

        self.choose(g.op("Gather", self.layers(x, attend), logit_index, axis=0), "L")

    def choose(self, x: str, rows: str) -> None:
        """Outputs of the tokens in x (rows, width): their logits, and the most likely next ones."""
        g = self.g
        logits = self.activations.widen(g, self.logits(x))  # (rows, vocab)
        greedy = g.op("ArgMax", logits, axis=-1, keepdims=0)  # the lowest id wins a tie
        g.output(greedy, "greedy_ids", np.int64, [rows])
        g.output(logits, "logits", np.float32, [rows, self.config.vocab_size])

    def logits(self, x: str) -> str:
        """Final norm and head over the requested tokens, (L, width) -> (L, vocab)."""
        if self.config.final_norm:
            x = self.norm(x, "norm")
        if self.config.embed_width is not None:
            x = self.linear(x, "project_out")
        if self.config.tied_head:
            return self.lowering.table.logits(self.g, self.tokens, x)
        return self.linear(x, "head")

    def linear(self, x: str, *names: str) -> str:
        """Linear layers with the same input, fused into one; the outputs are concatenated."""
        weight = np.concatenate([self.weights.get(f"decoder.{name}.weight") for name in names])
        biases = [f"decoder.{name}.bias" for name in names]
        bias = (
            np.concatenate([self.weights.get(name) for name in biases])
            if biases[0] in self.weights
            else None
        )
        fused = "decoder." + "+".join(names)
        return self.lowering.linear.linear(self.g, x, weight, bias, fused)

    def norm(self, x: str, name: str) -> str:
        """LayerNorm or RMSNorm, with statistics in float32 for every target."""
        g, config, name = self.g, self.config, f"decoder.{name}"
        scale = self.weights.get(f"{name}.weight")
        if config.norm == "layernorm":
            weights = scale, self.weights.get(f"{name}.bias")
            return self.activations.layer_norm(g, x, name, weights, config.norm_eps)
        x = self.activations.widen(g, x)
        y = g.op(
            "RMSNormalization",
            *(x, g.weight(f"{name}.weight", scale)),
            axis=-1,
            epsilon=config.norm_eps,
        )
        return self.activations.narrow(g, y)

    def activate(self, x: str) -> str:
        g = self.g
        if self.config.activation == "relu":
            return g.op("Relu", x)
        if self.config.activation == "silu":
            return g.op("Mul", x, g.op("Sigmoid", x))
        tanh = self.config.activation == "gelu_tanh"
        return g.op("Gelu", x, approximate="tanh" if tanh else "none")
