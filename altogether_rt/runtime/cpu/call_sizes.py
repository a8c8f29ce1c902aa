"""How much one call of a graph should compute on the CPU.

Between its matrix products a transformer passes over its activations again and again. While they
stay in the cache a pass costs little, from memory it takes as long as the products; and products of
a few hundred rows are as quick as those of thousands. So a batch is computed in parts. At the
published size, two cores: the encoder takes 590 ms an image two at a time and 690 eight at a time,
the mapper 65 ms eight at a time and 76 thirty-two at a time, a prompt of 60 tokens 225 ms in fours
and 253 in thirty-twos.
"""

from __future__ import annotations

from collections.abc import Sequence

from altogether_rt.config import CaptionerConfig, EncoderConfig

__all__ = ["embeddings_per_call", "images_per_call", "tokens_per_call"]

#: Of the widest activation of a call.
_BYTES = 12 << 20

_FLOAT_BYTES = 4

#: Images a call where the configuration names an encoder without describing it.
_UNKNOWN = 4


def images_per_call(encoder: EncoderConfig) -> int:
    """Images that the encoder computes at once."""
    vision = encoder.vision_cfg
    if vision is None:
        return _UNKNOWN
    side = int(vision.get("image_size", encoder.image_size))
    if isinstance(vision.get("layers", 12), Sequence):  # ResNet: widest behind its stem
        numbers = (side // 2) ** 2 * int(vision.get("width", 64))
    else:
        positions = (side // int(vision.get("patch_size", 16))) ** 2 + 1
        numbers = positions * int(vision.get("width", 768) * vision.get("mlp_ratio", 4.0))
    return _fitting(numbers)


def embeddings_per_call(config: CaptionerConfig) -> int:
    """Embeddings that the mapper maps at once."""
    mapper, width = config.mapper, config.decoder.token_width
    if mapper.kind == "mlp":
        return _fitting(mapper.prefix_length * width)
    positions = mapper.clip_length + mapper.prefix_length
    return _fitting(int(positions * width * max(mapper.mlp_ratio, 1.0)))


def tokens_per_call(config: CaptionerConfig) -> int:
    """Prompt tokens that the decoder reads at once."""
    return _fitting(config.decoder.ffn_width)


def _fitting(numbers: int) -> int:
    return max(1, _BYTES // (numbers * _FLOAT_BYTES))
