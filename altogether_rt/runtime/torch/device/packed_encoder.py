"""Vision transformers packed for a device: towers of open_clip, and those that give patch tokens.

Pixels are multiplied as they are: their normalisation is part of the first layer's weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altogether_rt.model.encoder import Encoder
from altogether_rt.model.vit import Vit, VitBlock
from altogether_rt.runtime.torch.device.packed_blocks import PackedBlocks
from altogether_rt.runtime.torch.device.packing import PackedBlock, PackedLinear, Packing, joined
from altogether_rt.runtime.torch.kernels.plain_rows import Activation, NormWeights

__all__ = ["PackedEncoder", "pack_encoder"]

#: Subtracted from pixels, so that numbers around zero are multiplied, exact in half precision.
_MIDDLE = 128
#: The columns of the first product are a multiple of this.
_COLUMNS = 16


class _Patches:
    """A convolution over patches, as a product: pixels (N, H, W, 3) -> (N, patches, width)."""

    def __init__(self, conv: nn.Conv2d, mean: Tensor, std: Tensor, packing: Packing) -> None:
        """mean, std: (3,) of pixels between 0 and 1."""
        self._side = conv.kernel_size[0]
        self._dtype = packing.dtype
        weight = conv.weight.detach().double()  # (width, 3, side, side)
        mean, std = mean.to(weight), std.to(weight)
        shift = -(weight / std[:, None, None] * (mean - _MIDDLE / 255)[:, None, None]).sum(
            (1, 2, 3)
        )
        bias = shift if conv.bias is None else shift + conv.bias.detach().double()
        flat = (weight / (255 * std[:, None, None])).permute(0, 2, 3, 1).flatten(1)
        self._padding = -flat.shape[1] % _COLUMNS
        self._linear = packing.linear(F.pad(flat, (0, self._padding)), bias)

    def __call__(self, pixels: Tensor) -> Tensor:
        count, height, width, _ = pixels.shape
        side = self._side
        down, across = height // side, width // side
        grid = pixels[:, : down * side, : across * side].reshape(count, down, side, across, side, 3)
        columns = grid.transpose(2, 3).reshape(count * down * across, -1)
        columns = F.pad(columns, (0, self._padding), value=_MIDDLE)
        return self._linear(columns.to(self._dtype) - _MIDDLE).view(count, down * across, -1)


class _Tower(NamedTuple):
    """What surrounds a tower's blocks."""

    positions: Tensor  # (patches, W)
    first: Tensor | None  # (W,) the class token at its position
    norm_pre: NormWeights | None
    blocks: PackedBlocks
    keep: slice  # positions that are read of the last block
    mean_after: bool  # whether these are averaged, and before or after the norm
    mean_before: bool
    norm_post: NormWeights
    project: PackedLinear | None


class PackedEncoder:
    """An `Encoder` on a device."""

    def __init__(self, encoder: Encoder, tower: _Tower, conv: nn.Conv2d, packing: Packing) -> None:
        self._config, self._tower, self._packing = encoder.config, tower, packing
        self._patches = _Patches(conv, encoder.mean.flatten(), encoder.std.flatten(), packing)

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (N, H, W, 3) -> embeddings (N, E) or (N, patches, E)."""
        tower, rows = self._tower, self._packing.rows
        x = self._patches(pixels) + tower.positions
        if tower.first is not None:
            x = torch.cat([tower.first.expand(len(x), 1, -1), x], dim=1)
        if tower.norm_pre is not None:
            x = _normed(rows.add_norm, x, tower.norm_pre)
        x = tower.blocks.run(x, tower.keep, None if tower.mean_before else tower.norm_post)
        if tower.mean_after or tower.mean_before:
            x = x.float().mean(dim=1).to(x.dtype)
        elif tower.first is not None:
            x = x[:, 0]
        if tower.mean_before:
            x = _normed(rows.add_norm, x, tower.norm_post)
        if tower.project is not None:
            x = tower.project(x)
        if self._config.normalize:
            x = F.normalize(x.float(), dim=-1)
        return x.to(self._packing.dtype)


def pack_encoder(encoder: nn.Module, packing: Packing) -> PackedEncoder | None:
    """The encoder packed; None if its tower is of another make, and has to run itself."""
    if not isinstance(encoder, Encoder):
        return None
    visual: Any = encoder.visual
    if isinstance(visual, Vit):
        tower, conv = _vit(visual, packing), visual.patch
    elif _is_known(visual):
        tower, conv = _clip(visual, packing), visual.conv1
    else:
        return None
    return PackedEncoder(encoder, tower, conv, packing)


def _normed(add_norm: Callable[..., Any], x: Tensor, norm: NormWeights) -> Tensor:
    normed: Tensor = add_norm(x.reshape(-1, x.shape[-1]), None, norm)[1]
    return normed.view(x.shape)


def _vit(vit: Vit, packing: Packing) -> _Tower:
    layers = [layer for layer in vit.layers if isinstance(layer, VitBlock)]
    blocks = [
        packing.block(
            (layer.norm1, layer.norm2),
            qkv=joined(layer.q, layer.k, layer.v),
            out=joined(layer.out),
            fc1=joined(layer.fc1),
            fc2=joined(layer.fc2),
            activation="gelu_tanh" if layer.approximate == "tanh" else "gelu",
        )
        for layer in layers
    ]
    return _Tower(
        positions=packing.tensor(vit.positions),
        first=None,
        norm_pre=None,
        blocks=PackedBlocks(blocks, layers[0].heads, packing),
        keep=slice(None),
        mean_after=False,
        mean_before=False,
        norm_post=packing.norm(vit.norm),
        project=None,
    )


def _clip(visual: Any, packing: Packing) -> _Tower:
    """open_clip's `VisionTransformer`, of which `_is_known` has seen every part."""
    first = visual.class_embedding + visual.positional_embedding[0]
    blocks = [_clip_block(block, packing) for block in visual.transformer.resblocks]
    mean = visual.pool_type == "avg"
    projection = visual.proj
    return _Tower(
        positions=packing.tensor(visual.positional_embedding[1:]),
        first=packing.tensor(first),
        norm_pre=None if _is_none(visual.ln_pre) else packing.norm(visual.ln_pre),
        blocks=PackedBlocks(blocks, visual.transformer.resblocks[0].attn.num_heads, packing),
        keep=slice(1, None) if mean else slice(0, 1),
        mean_after=mean and not visual.final_ln_after_pool,
        mean_before=mean and visual.final_ln_after_pool,
        norm_post=packing.norm(visual.ln_post),
        project=None if projection is None else packing.linear(projection.t(), None),
    )


def _clip_block(block: Any, packing: Packing) -> PackedBlock:
    activation = _activation(block.mlp.gelu)
    assert activation is not None
    return packing.block(
        (block.ln_1, block.ln_2),
        qkv=(block.attn.in_proj_weight, block.attn.in_proj_bias),
        out=_scaled(block.attn.out_proj, block.ls_1),
        fc1=joined(block.mlp.c_fc),
        fc2=_scaled(block.mlp.c_proj, block.ls_2),
        activation=activation,
    )


def _scaled(linear: nn.Linear, scale: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The layer with the factors (out,) that its results are multiplied by, as part of it."""
    weight, bias = joined(linear)
    if _is_none(scale):
        return weight, bias
    gamma: Any = scale.gamma
    factors = gamma.detach()
    return weight * factors[:, None], None if bias is None else bias * factors


def _is_known(visual: nn.Module) -> bool:
    """Whether `visual` computes what `_clip` packs, judged by all that its class can be."""
    tower: Any = visual
    if not _is_of_open_clip(tower, "VisionTransformer"):
        return False
    try:
        conv, size = tower.conv1, tower.conv1.kernel_size
        return (
            tower.attn_pool is None
            and tower.pool_type in ("tok", "avg")
            and isinstance(tower.final_ln_after_pool, bool)
            and (type(conv), conv.stride, conv.padding, conv.groups) == (nn.Conv2d, size, (0, 0), 1)
            and size[0] == size[1]
            and (_is_none(tower.ln_pre) or _is_norm(tower.ln_pre))
            and _is_norm(tower.ln_post)
            and len(tower.transformer.resblocks) > 0
            and all(_is_known_block(block) for block in tower.transformer.resblocks)
        )
    except AttributeError:  # of a version of open_clip with other parts
        return False


def _is_known_block(block: Any) -> bool:
    attention, mlp = block.attn, block.mlp
    known: bool = (
        _is_of_open_clip(block, "ResidualAttentionBlock")
        and not hasattr(block, "ln_1_kv")
        and type(attention) is nn.MultiheadAttention
        and attention._qkv_same_embed_dim
        and attention.bias_k is None
        and not attention.add_zero_attn
        and _is_norm(block.ln_1)
        and _is_norm(block.ln_2)
        and [name for name, _ in mlp.named_children()] == ["c_fc", "gelu", "c_proj"]
        and type(mlp.c_fc) is type(mlp.c_proj) is nn.Linear
        and _activation(mlp.gelu) is not None
        and all(_is_none(each) or hasattr(each, "gamma") for each in (block.ls_1, block.ls_2))
    )
    return known


def _activation(module: nn.Module) -> Activation | None:
    if _is_of_open_clip(module, "QuickGELU"):
        return "quick_gelu"
    if type(module) is nn.GELU:
        return "gelu_tanh" if module.approximate == "tanh" else "gelu"
    if type(module) is nn.SiLU:
        return "silu"
    return "relu" if type(module) is nn.ReLU else None


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1


def _is_none(module: nn.Module) -> bool:
    return type(module) is nn.Identity


def _is_of_open_clip(module: nn.Module, name: str) -> bool:
    kind = type(module)
    return (kind.__module__, kind.__name__) == ("open_clip.transformer", name)
