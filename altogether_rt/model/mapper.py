"""From one image embedding to the visual tokens that the decoder reads.

`TransformerMapper` is the mapping network of ClipCap (Mokady et al. 2021, arXiv 2111.09734) as
Altogether configures it; `MlpMapper` is ClipCap's smaller alternative. `PatchMapper` is what joins
an encoder of patch tokens to a language model, as in LLaVA (a layer or two for every patch) and
Idefics3 (Laurençon et al. 2024, arXiv 2408.12637: blocks of patches become one token).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altogether_rt.config import CaptionerConfig

__all__ = ["Mapper", "MapperBlock", "MlpMapper", "PatchMapper", "TransformerMapper", "build_mapper"]

#: Scale of the initial weights; the visual tokens then start at the scale of token embeddings.
INIT_STD = 0.02


class MapperBlock(nn.Module):
    """One pre-norm transformer block: every position attends to every position."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)  # rows of k, then rows of v
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, mlp_width)
        self.fc2 = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, N, W) -> (B, N, W)."""
        x = x + self.attend(self.norm1(x))
        hidden: Tensor = self.fc2(F.relu(self.fc1(self.norm2(x))))
        return x + hidden

    def attend(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        q = self.q(x).view(split).transpose(1, 2)  # (B, H, N, D)
        k, v = (half.reshape(split).transpose(1, 2) for half in self.kv(x).chunk(2, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class TransformerMapper(nn.Module):
    """Embedding -> `clip_length` positions, next to learned ones that become the visual tokens."""

    def __init__(
        self,
        embed_dim: int,
        width: int,
        prefix_length: int,
        clip_length: int,
        layers: int,
        heads: int,
        mlp_ratio: float,
    ) -> None:
        super().__init__()
        self.clip_length = clip_length
        self.linear = nn.Linear(embed_dim, clip_length * width)
        self.prefix = nn.Parameter(torch.empty(prefix_length, width))
        mlp_width = int(width * mlp_ratio)
        self.layers = nn.ModuleList(MapperBlock(width, heads, mlp_width) for _ in range(layers))

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings (B, E) -> visual tokens (B, prefix_length, W)."""
        batch, width = embeddings.shape[0], self.prefix.shape[1]
        unfolded = self.linear(embeddings).view(batch, self.clip_length, width)
        prefix = self.prefix.to(unfolded.dtype).expand(batch, -1, -1)
        x = torch.cat([unfolded, prefix], dim=1)  # (B, clip_length + prefix_length, W)
        for layer in self.layers:
            x = layer(x)
        return x[:, self.clip_length :]


class MlpMapper(nn.Module):
    """Linear, tanh, linear; the hidden layer is half as wide as all visual tokens together."""

    def __init__(self, embed_dim: int, width: int, prefix_length: int) -> None:
        super().__init__()
        self.prefix_length = prefix_length
        self.fc1 = nn.Linear(embed_dim, width * prefix_length // 2)
        self.fc2 = nn.Linear(width * prefix_length // 2, width * prefix_length)

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings (B, E) -> visual tokens (B, prefix_length, W)."""
        tokens: Tensor = self.fc2(torch.tanh(self.fc1(embeddings)))
        return tokens.view(embeddings.shape[0], self.prefix_length, -1)


class PatchMapper(nn.Module):
    """Blocks of patch tokens side by side, projected by one linear layer or by two with GELU."""

    def __init__(
        self, embed_dim: int, width: int, shuffle: int, hidden: int | None, bias: bool
    ) -> None:
        super().__init__()
        self.shuffle = shuffle
        block = embed_dim * shuffle**2
        self.linear = nn.Linear(block, width if hidden is None else hidden, bias=bias)
        self.out = None if hidden is None else nn.Linear(hidden, width, bias=bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings (B, patches, E) -> visual tokens (B, prefix_length, W)."""
        x = self.linear(self.blocks(embeddings))
        if self.out is not None:
            x = self.out(F.gelu(x))
        tokens: Tensor = x
        return tokens

    def blocks(self, patches: Tensor) -> Tensor:
        """(B, G², E) -> (B, (G / s)², s² E): each block's patches, row by row, as one vector."""
        batch, count, width = patches.shape
        side, s = math.isqrt(count), self.shuffle
        grid = patches.view(batch, side // s, s, side // s, s, width)
        return grid.transpose(2, 3).reshape(batch, -1, s * s * width)


Mapper = TransformerMapper | MlpMapper | PatchMapper


def build_mapper(config: CaptionerConfig) -> Mapper:
    """The mapper that `config` describes, freshly initialised."""
    mapper, width = config.mapper, config.decoder.token_width
    embed_dim = config.encoder.embed_dim
    module: Mapper
    if mapper.kind == "patches":
        module = PatchMapper(embed_dim, width, mapper.shuffle, mapper.hidden, mapper.bias)
    elif mapper.kind == "mlp":
        module = MlpMapper(embed_dim, width, mapper.prefix_length)
    else:
        module = TransformerMapper(
            embed_dim,
            width,
            prefix_length=mapper.prefix_length,
            clip_length=mapper.clip_length,
            layers=mapper.layers,
            heads=mapper.heads,
            mlp_ratio=mapper.mlp_ratio,
        )
        nn.init.normal_(module.prefix, std=INIT_STD)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=INIT_STD)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module
