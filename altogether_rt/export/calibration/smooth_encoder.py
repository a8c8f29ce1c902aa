"""Smoothing of open_clip's vision transformers; `smooth` does the same for mapper and decoder.

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

__all__ = ["smooth_encoder"]


def smooth_encoder(
    encoder: nn.Module, norms: Mapping[str, NDArray[np.float32]], strength: float
) -> None:
    """Move outliers of the norms' outputs into the weights that read them; changes `encoder`.

    norms: largest absolute output of each norm by name, (channels,). strength: as for
    `SmoothedWeights`. The encoder's results stay the same. An encoder without open_clip's residual
    blocks, such as a ResNet, is not changed.
    """
    with torch.no_grad():
        for name, norm, reader in _pairs(encoder):
            largest = reader.abs().amax(dim=0).float().cpu().numpy()
            factors = torch.from_numpy(smoothing_factors(norms[name], largest, strength))
            factors = factors.to(reader.device, reader.dtype)
            norm.weight.div_(factors)
            norm.bias.div_(factors)
            reader.mul_(factors)


def _pairs(encoder: nn.Module) -> Iterator[tuple[str, nn.LayerNorm, torch.Tensor]]:
    """Norms of open_clip's residual blocks: name, norm, and the weight (out, channels) after it."""
    for name, block in encoder.named_modules():
        attention, mlp = getattr(block, "attn", None), getattr(block, "mlp", None)
        joined = getattr(attention, "in_proj_weight", None)
        inner = getattr(getattr(mlp, "c_fc", None), "weight", None)
        for part, reader in (("ln_1", joined), ("ln_2", inner)):
            norm = getattr(block, part, None)
            if isinstance(norm, nn.LayerNorm) and norm.elementwise_affine and reader is not None:
                yield f"{name}.{part}", norm, reader
