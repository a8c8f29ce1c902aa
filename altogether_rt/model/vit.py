"""A vision transformer that gives its patch tokens: the tower of SigLIP (Zhai et al. 2023,
arXiv 2303.15343), as SmolVLM and DistilViT2 use it, without pooling."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altogether_rt.config import EncoderConfig

__all__ = ["Vit", "VitBlock"]

_APPROXIMATION: Final = {"gelu": "none", "gelu_tanh": "tanh"}


class VitBlock(nn.Module):
    """One pre-norm block: every patch attends to every patch."""

    def __init__(
        self, width: int, heads: int, ffn_width: int, norm_eps: float, activation: str
    ) -> None:
        super().__init__()
        self.heads = heads
        self.approximate = _APPROXIMATION[activation]
        self.norm1 = nn.LayerNorm(width, norm_eps)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, norm_eps)
        self.fc1 = nn.Linear(width, ffn_width)
        self.fc2 = nn.Linear(ffn_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, P, W) -> (N, P, W)."""
        normed = self.norm1(x)
        split = (*x.shape[:2], self.heads, x.shape[2] // self.heads)
        q, k, v = (part(normed).view(split).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v)  # (N, H, P, D)
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        hidden = F.gelu(self.fc1(self.norm2(x)), approximate=self.approximate)
        y: Tensor = x + self.fc2(hidden)
        return y


class Vit(nn.Module):
    """Normalised pixels to the patch tokens of the last block, row by row, after the final norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        vit, grid = config.vit, config.grid
        assert vit is not None and grid is not None
        self.patch = nn.Conv2d(3, vit.width, vit.patch_size, vit.patch_size)
        self.positions = nn.Parameter(0.02 * torch.randn(grid**2, vit.width))
        self.layers = nn.ModuleList(
            VitBlock(vit.width, vit.heads, vit.ffn_width, vit.norm_eps, vit.activation)
            for _ in range(vit.layers)
        )
        self.norm = nn.LayerNorm(vit.width, vit.norm_eps)

    def forward(self, image: Tensor) -> Tensor:
        """image (N, 3, H, H) -> patch tokens (N, patches, W)."""
        x = self.patch(image).flatten(2).transpose(1, 2) + self.positions
        for layer in self.layers:
            x = layer(x)
        y: Tensor = self.norm(x)
        return y
