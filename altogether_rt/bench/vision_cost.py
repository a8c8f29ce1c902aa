"""Operations and bytes of the image encoder, from open_clip's description of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from altogether_rt.bench.cost import Cost
from altogether_rt.config import EncoderConfig, VitConfig

__all__ = ["encoder_cost"]


def encoder_cost(encoder: EncoderConfig, images: int, weight_bytes: int) -> Cost | None:
    """Cost of one call of the encoder; None if the config names a model without describing it.

    Counts encoders of patch tokens and open_clip's own vision transformers and ResNets, not models
    of other libraries.
    """
    if encoder.vit is not None:
        macs, attention, weights = _patches(encoder.vit, encoder.embedding_shape[0])
        return Cost(2 * images * macs, 2 * images * attention, weight_bytes * weights)
    vision = encoder.vision_cfg
    if vision is None:
        return None
    side = int(vision.get("image_size", encoder.image_size))
    layers = vision.get("layers", 12)
    if isinstance(layers, Sequence):
        macs, attention, weights = _resnet(vision, layers, side, encoder.embed_dim)
    else:
        macs, attention, weights = _transformer(vision, int(layers), side, encoder.embed_dim)
    return Cost(2 * images * macs, 2 * images * attention, weight_bytes * weights)


def _transformer(
    vision: Mapping[str, Any], layers: int, side: int, embed_dim: int
) -> tuple[int, int, int]:
    """(multiply-adds with weights, multiply-adds of attention, weights) of one image.

    P = (side / patch)² patches of 3·patch² numbers and a class token, S = P + 1 positions:
    P · 3 patch² W  +  S · layers · (4 + 2 r) W²  +  W · embed_dim;  attention 2 S² W a layer.
    """
    width, patch = int(vision.get("width", 768)), int(vision.get("patch_size", 16))
    patches = (side // patch) ** 2
    layer = 4 * width**2 + 2 * width * int(width * vision.get("mlp_ratio", 4.0))
    stem, head = 3 * patch**2 * width, width * embed_dim
    positions = patches + 1
    return (
        patches * stem + positions * layers * layer + head,
        layers * 2 * positions**2 * width,
        stem + layers * layer + head,
    )


def _patches(vit: VitConfig, patches: int) -> tuple[int, int, int]:
    """`_transformer`, for a tower that gives its patch tokens: no class token and no head."""
    layer = 4 * vit.width**2 + 2 * vit.width * vit.ffn_width
    weights = 3 * vit.patch_size**2 * vit.width + vit.layers * layer
    return patches * weights, vit.layers * 2 * patches**2 * vit.width, weights


def _resnet(
    vision: Mapping[str, Any], layers: Sequence[int], side: int, embed_dim: int
) -> tuple[int, int, int]:
    """`_transformer`, for CLIP's ResNet: three-convolution stem, bottlenecks, attention pooling."""
    width = int(vision.get("width", 64))
    half = side // 2
    convolutions = [  # (weights, positions that each is applied at)
        (9 * 3 * width // 2, half**2),
        (9 * width // 2 * (width // 2), half**2),
        (9 * width // 2 * width, half**2),
    ]
    channels, size = width, side // 4
    for stage, blocks in enumerate(layers):
        planes = width * 2**stage
        for block in range(blocks):
            out = size // 2 if stage and not block else size
            convolutions += [(channels * planes, size**2), (9 * planes**2, size**2)]
            convolutions.append((planes * 4 * planes, out**2))
            if not block:  # the shortcut changes the width and, after the first stage, the size
                convolutions.append((channels * 4 * planes, out**2))
            channels, size = 4 * planes, out
    positions = size**2 + 1
    convolutions += [(3 * channels**2, positions), (channels * embed_dim, positions)]
    return (
        sum(weights * count for weights, count in convolutions),
        2 * positions**2 * channels,
        sum(weights for weights, _ in convolutions),
    )
