"""How many items one call of a graph should compute on the CPU.

Between its matrix products a transformer makes many passes over its activations. A pass is cheap
while they stay in the processor's cache, but takes as long as the products if they come from
memory; and products with a few hundred rows are as fast per row as those with thousands. So a batch
is computed in parts. At the published size on two cores, per item: the encoder takes 590 ms in
calls of 2 images and 690 ms in calls of 8, the mapper 65 ms in calls of 8 and 76 ms in calls of 32,
and a prompt of 60 tokens 225 ms in calls of 4 and 253 ms in calls of 32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from altogether_rt.config import CaptionerConfig, EncoderConfig

__all__ = ["embeddings_per_call", "images_per_call", "tokens_per_call"]

#: Maximum size of the widest activation of a call.
_BYTES = 12 << 20

_FLOAT_BYTES = 4

#: Images per call if the configuration names an encoder without describing its layers.
_UNKNOWN = 4


def images_per_call(encoder: EncoderConfig) -> int:
    """Number of images per call of the encoder."""
    if encoder.vit is not None:
        return _fitting(encoder.embedding_shape[0] * encoder.vit.ffn_width)
    vision = encoder.vision_cfg
    if vision is None:
        return _UNKNOWN
    side = int(vision.get("image_size", encoder.image_size))
    if isinstance(vision.get("layers", 12), Sequence):  # ResNet: widest after its stem
        numbers = (side // 2) ** 2 * int(vision.get("width", 64))
    else:
        positions = (side // int(vision.get("patch_size", 16))) ** 2 + 1
        numbers = positions * int(vision.get("width", 768) * vision.get("mlp_ratio", 4.0))
    return _fitting(numbers)


def embeddings_per_call(config: CaptionerConfig) -> int:
    """Number of embeddings per call of the mapper."""
    mapper, width = config.mapper, config.decoder.token_width
    if mapper.kind == "patches":
        return _fitting(math.prod(config.encoder.embedding_shape))
    if mapper.kind == "mlp":
        return _fitting(mapper.prefix_length * width)
    positions = mapper.clip_length + mapper.prefix_length
    return _fitting(int(positions * width * max(mapper.mlp_ratio, 1.0)))


def tokens_per_call(config: CaptionerConfig) -> int:
    """Number of prompt tokens per call of the decoder."""
    return _fitting(config.decoder.ffn_width)


def _fitting(numbers: int) -> int:
    return max(1, _BYTES // (numbers * _FLOAT_BYTES))
