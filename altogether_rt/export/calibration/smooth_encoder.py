"""Smoothing of vision transformers; `smooth` does the same for mapper and decoder.

CLIP's vision towers have outlier channels in the outputs of their norms too. torch exports the
tower from its module, so the module's tensors are changed in place before the export.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from altogether_rt.export.calibration.smooth import smoothing_factors
from altogether_rt.model.vit import VitBlock

__all__ = ["smooth_encoder"]


def smooth_encoder(
    encoder: nn.Module, norms: Mapping[str, NDArray[np.float32]], strength: float
) -> None:
    """Move outliers of the norms' outputs into the weights that read them; changes `encoder`.

    norms: largest absolute output of each norm by name, (channels,). strength: as for
    `SmoothedWeights`. The encoder's results stay the same. An encoder without such residual blocks,
    a ResNet, is not changed.
    """
    with torch.no_grad():
        for name, norm, readers in _pairs(encoder):
            largest = torch.stack([reader.abs().amax(dim=0) for reader in readers]).amax(dim=0)
            smoothing = smoothing_factors(norms[name], largest.float().cpu().numpy(), strength)
            factors = torch.from_numpy(smoothing).to(largest.device, largest.dtype)
            norm.weight.div_(factors)
            norm.bias.div_(factors)
            for reader in readers:
                reader.mul_(factors)


def _pairs(
    encoder: nn.Module,
) -> Iterator[tuple[str, nn.LayerNorm, tuple[torch.Tensor, ...]]]:
    """Norms of residual blocks: name, norm, and the weights (out, channels) that read it."""
    for name, block in encoder.named_modules():
        if isinstance(block, VitBlock):
            queries, keys, values = block.q.weight, block.k.weight, block.v.weight
            yield f"{name}.norm1", block.norm1, (queries, keys, values)
            yield f"{name}.norm2", block.norm2, (block.fc1.weight,)
            continue
        attention, mlp = getattr(block, "attn", None), getattr(block, "mlp", None)
        joined = getattr(attention, "in_proj_weight", None)
        inner = getattr(getattr(mlp, "c_fc", None), "weight", None)
        for part, reader in (("ln_1", joined), ("ln_2", inner)):
            norm = getattr(block, part, None)
            if isinstance(norm, nn.LayerNorm) and norm.elementwise_affine and reader is not None:
                yield f"{name}.{part}", norm, (reader,)
