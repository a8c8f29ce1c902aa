"""Writes the mapper's graph: embeddings (N, E) or (N, patches, E) to visual tokens (N, P, W).

The layouts of the weights are those of `altogether_rt.model.mapper`.
"""

from __future__ import annotations

import numpy as np

from altogether_rt.config import CaptionerConfig
from altogether_rt.export.graph import GraphBuilder, Shape
from altogether_rt.export.lowering.base import Lowering
from altogether_rt.export.weights import WeightSource

__all__ = ["build_mapper"]

NORM_EPS = 1e-5  # torch's default, which the mapper uses


def build_mapper(
    g: GraphBuilder, config: CaptionerConfig, weights: WeightSource, lowering: Lowering
) -> None:
    """Add the mapper to `g`."""
    embeddings = g.input("embeddings", np.float32, ["N", *config.encoder.embedding_shape])
    emit = _MapperEmitter(g, config, weights, lowering)
    x = lowering.activations.narrow(g, embeddings)
    tokens = {"mlp": emit.mlp, "patches": emit.patches, "transformer": emit.transformer}[
        config.mapper.kind
    ](x)
    shape: Shape = ["N", config.mapper.prefix_length, config.decoder.token_width]
    g.output(lowering.activations.widen(g, tokens), "visual_tokens", np.float32, shape)


class _MapperEmitter:
    def __init__(
        self, g: GraphBuilder, config: CaptionerConfig, weights: WeightSource, lowering: Lowering
    ) -> None:
        self.g = g
        self.mapper = config.mapper
        self.grid = config.encoder.grid or 0
        self.embed_dim = config.encoder.embed_dim
        self.width = config.decoder.token_width
        self.weights = weights
        self.lowering = lowering
        self.activations = lowering.activations

    def mlp(self, embeddings: str) -> str:
        hidden = self.g.op("Tanh", self.linear(embeddings, "fc1"))
        return self._unfold(self.linear(hidden, "fc2"), self.mapper.prefix_length)

    def patches(self, embeddings: str) -> str:
        """Blocks of patch tokens side by side, through one linear layer or two with GELU."""
        g, grid, side = self.g, self.grid, self.mapper.shuffle
        x = embeddings
        if side > 1:
            blocks = grid // side
            split = g.constant([-1, blocks, side, blocks, side, self.embed_dim], np.int64)
            x = g.op("Transpose", g.op("Reshape", x, split), perm=[0, 1, 3, 2, 4, 5])
            joined = g.constant([-1, blocks**2, side**2 * self.embed_dim], np.int64)
            x = g.op("Reshape", x, joined)
        x = self.linear(x, "linear")
        return x if self.mapper.hidden is None else self.linear(g.op("Gelu", x), "out")

    def transformer(self, embeddings: str) -> str:
        g = self.g
        unfolded = self._unfold(self.linear(embeddings, "linear"), self.mapper.clip_length)
        learned = self.activations.array(self.weights.get("mapper.prefix"))
        prefix = g.weight("mapper.prefix", learned)
        batch = g.op("Shape", embeddings, start=0, end=1)
        rest = g.constant([self.mapper.prefix_length, self.width], np.int64)
        prefix = g.op("Expand", prefix, g.op("Concat", batch, rest, axis=0))
        x = g.op("Concat", unfolded, prefix, axis=1)  # (N, clip_length + prefix_length, W)
        for index in range(self.mapper.layers):
            x = self.layer(x, f"layers.{index}")
        start = g.constant([self.mapper.clip_length], np.int64)
        end = g.constant([self.mapper.clip_length + self.mapper.prefix_length], np.int64)
        return g.op("Slice", x, start, end, g.constant([1], np.int64))

    def layer(self, x: str, name: str) -> str:
        """One pre-norm block; every position attends to every position."""
        g, heads = self.g, self.mapper.heads
        qkv = self.linear(self.norm(x, f"{name}.norm1"), f"{name}.q", f"{name}.kv")
        q, k, v = g.ops("Split", 3, qkv, axis=-1, num_outputs=3)
        mixed = g.op("Attention", q, k, v, q_num_heads=heads, kv_num_heads=heads)
        x = g.op("Add", x, self.linear(mixed, f"{name}.out"))
        hidden = g.op("Relu", self.linear(self.norm(x, f"{name}.norm2"), f"{name}.fc1"))
        return g.op("Add", x, self.linear(hidden, f"{name}.fc2"))

    def linear(self, x: str, *names: str) -> str:
        """Linear layers with the same input, fused into one; the outputs are concatenated."""
        weight = np.concatenate([self.weights.get(f"mapper.{name}.weight") for name in names])
        bias_name = f"mapper.{names[0]}.bias"
        bias = self.weights.get(bias_name) if bias_name in self.weights else None
        assert bias is None or len(names) == 1
        return self.lowering.linear.linear(self.g, x, weight, bias, "mapper." + "+".join(names))

    def norm(self, x: str, name: str) -> str:
        name = f"mapper.{name}"
        weights = self.weights.get(f"{name}.weight"), self.weights.get(f"{name}.bias")
        return self.activations.layer_norm(self.g, x, name, weights, NORM_EPS)

    def _unfold(self, x: str, length: int) -> str:
        """(N, length * W) -> (N, length, W)."""
        return self.g.op("Reshape", x, self.g.constant([-1, length, self.width], np.int64))
