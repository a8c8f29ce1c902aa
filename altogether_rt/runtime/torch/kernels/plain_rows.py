"""Norms and activations of rows in plain PyTorch: the kernels' reference, and their stand-in.

Everything between what is read and what is written is float32. Rows in fp8 are made of those
float32 values: `float8.quantize_rows` of them, before any rounding to the type of the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altogether_rt.runtime.torch.float8 import Float8Rows, quantize_rows

__all__ = ["Activation", "NormWeights", "activate", "add_norm"]

#: `none` alone rounds rows to fp8. `quick_gelu` is x · sigmoid(1.702 x), of OpenAI's CLIP.
Activation = Literal["none", "relu", "gelu", "gelu_tanh", "quick_gelu", "silu"]


@dataclass(frozen=True)
class NormWeights:
    """A layer norm, or an RMS norm, over the width W; its weights are float32."""

    weight: Tensor  # (W,)
    bias: Tensor | None  # (W,)
    eps: float
    rms: bool = False

    @classmethod
    def of(cls, norm: nn.Module, device: torch.device) -> NormWeights:
        """A copy of the weights of `norm` on `device`."""
        assert isinstance(norm, (nn.LayerNorm, nn.RMSNorm)) and len(norm.normalized_shape) == 1
        (width,) = norm.normalized_shape
        rms = isinstance(norm, nn.RMSNorm)
        weight: Tensor | None = norm.weight
        bias = norm.bias if isinstance(norm, nn.LayerNorm) else None
        eps = norm.eps if norm.eps is not None else torch.finfo(torch.float32).eps
        return cls(
            torch.ones(width, device=device) if weight is None else _copied(weight, device),
            None if bias is None else _copied(bias, device),
            eps,
            rms,
        )


def add_norm(
    x: Tensor, residual: Tensor | None, norm: NormWeights, *, float8: bool = False
) -> tuple[Tensor, Tensor | Float8Rows]:
    """The sum of x (T, W) and `residual` (T, W), and its norm.

    The sum has the type of `residual`, and the norm is of the sum rounded to it; without a residual
    the sum is x itself. The norm has the type of the sum, or is in fp8.
    """
    total = x if residual is None else (x.float() + residual.float()).to(residual.dtype)
    wide, shape = total.float(), (total.shape[-1],)
    if norm.rms:
        y = F.rms_norm(wide, shape, norm.weight, norm.eps)
    else:
        y = F.layer_norm(wide, shape, norm.weight, norm.bias, norm.eps)
    return total, quantize_rows(y) if float8 else y.to(total.dtype)


def activate(
    x: Tensor, kind: Activation, *, gated: bool = False, float8: bool = False
) -> Tensor | Float8Rows:
    """The activation of x (T, W), in its type or in fp8.

    gated: x is (T, 2 W), and the activation of its first half is multiplied by the second.
    """
    wide = x.float()
    if gated:
        gate, up = wide.chunk(2, dim=-1)
        y = _activated(gate, kind) * up
    else:
        y = _activated(wide, kind)
    return quantize_rows(y) if float8 else y.to(x.dtype)


def _activated(x: Tensor, kind: Activation) -> Tensor:
    if kind == "gelu" or kind == "gelu_tanh":
        return F.gelu(x, approximate="tanh" if kind == "gelu_tanh" else "none")
    if kind == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    if kind == "silu":
        return F.silu(x)
    return F.relu(x) if kind == "relu" else x


def _copied(weight: Tensor, device: torch.device) -> Tensor:
    return weight.detach().to(device, torch.float32, copy=True)
