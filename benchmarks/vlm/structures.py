"""The configurations of public captioners, as their folders on the hub hold them.

They leave out what is the default of transformers' classes, and hold values that no reader should
take (a padding token outside of the vocabulary), as the published files do.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["STRUCTURES", "Structure"]

Family = Literal["smolvlm", "distilvit"]

_HEAD_WIDTH = 16  # of small structures


@dataclass(frozen=True)
class Structure:
    """A captioner without its weights."""

    name: str
    family: Family
    config: dict[str, Any]  # config.json
    named_tiles: bool = True  # whether names of tiles are tokens
    dtype: str = "bfloat16"  # of the published weights

    def reduced(self, layers: int) -> Structure:
        """The same widths with `layers` layers in the encoder and in the decoder."""
        config = copy.deepcopy(self.config)
        for part in ("vision_config", "text_config"):
            config[part]["num_hidden_layers"] = layers
        return Structure(
            f"{self.name}-{layers}-layers", self.family, config, self.named_tiles, self.dtype
        )

    def small(self) -> Structure:
        """Two layers and small widths, with everything else as published."""
        config = copy.deepcopy(self.reduced(2).config)
        vision, text = config["vision_config"], config["text_config"]
        beyond = vision["image_size"] % vision["patch_size"]  # pixels that no patch has
        grid = 2 * config.get("scale_factor", 2)
        vision["hidden_size"] = _HEAD_WIDTH * vision["num_attention_heads"]
        vision["intermediate_size"] = 96
        vision["image_size"] = vision["patch_size"] * grid + beyond
        groups = text["num_attention_heads"] // text["num_key_value_heads"]
        text["num_key_value_heads"], text["num_attention_heads"] = 2, 2 * groups
        text["hidden_size"] = _HEAD_WIDTH * 2 * groups
        text["intermediate_size"] = 96
        if "head_dim" in text:
            text["head_dim"] = _HEAD_WIDTH
        return Structure(f"{self.name}-small", self.family, config, self.named_tiles, self.dtype)


def _smolvlm(
    name: str,
    *,
    layers: int,
    width: int,
    heads: int,
    kv_heads: int,
    ffn_width: int,
    model_type: str = "idefics3",
    **changes: Any,
) -> Structure:
    vision = {
        "hidden_size": 768,
        "image_size": 512,
        "max_image_size": {"longest_edge": 512},
        "model_type": "idefics3_vision",
        "num_attention_heads": 12,
        "patch_size": 16,
        "size": {"longest_edge": 2048},
        "tie_word_embeddings": False,
    }
    text = {
        "_flash_attn_2_enabled": True,
        "architectures": ["VLlama3ForCausalLM"],
        "head_dim": 64,
        "hidden_size": width,
        "intermediate_size": ffn_width,
        "is_llama_config": True,
        "max_position_embeddings": 8192,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "pad_token_id": 2,
        "qk_layer_norms": False,
        "rms_norm_eps": 1e-5,
        "rope_interleaved": False,
        "rope_theta": 100000,
        "use_resampler": False,
        "vocab_size": 49280,
    }
    config = {
        "architectures": ["Idefics3ForConditionalGeneration"],
        "image_token_id": 49190,
        "model_type": model_type,
        "pad_token_id": 128002,
        "scale_factor": 4,
        "text_config": text,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": False,
        "vision_config": vision,
        "vocab_size": 49280,
    }
    for key, value in changes.items():
        part = config.get(key)
        config[key] = {**part, **value} if isinstance(part, dict) else value
    return Structure(name, "smolvlm", config, named_tiles=config["vocab_size"] == 49280)


_DISTILVIT = {
    "model_type": "prefix_conditioning_vlm",
    "vision_config": {
        "hidden_size": 768,
        "image_size": 224,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "patch_size": 16,
        "model_type": "siglip_vision_model",
    },
    "text_config": {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "max_position_embeddings": 2048,
        "model_type": "llama",
        "num_attention_heads": 9,
        "num_hidden_layers": 30,
        "num_key_value_heads": 3,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "vocab_size": 49152,
    },
    "projection_type": "linear",
    "lora_r": 16,
    "lora_alpha": 16,
    "max_length": 30,
}

#: In order of their sizes.
STRUCTURES: dict[str, Structure] = {
    one.name: one
    for one in (
        Structure("distilvit2", "distilvit", _DISTILVIT, dtype="float32"),
        _smolvlm("smolvlm-256m", layers=30, width=576, heads=9, kv_heads=3, ffn_width=1536),
        _smolvlm(
            "smolvlm-500m",
            layers=32,
            width=960,
            heads=15,
            kv_heads=5,
            ffn_width=2560,
            model_type="smolvlm",
        ),
        _smolvlm(
            "smolvlm-2.2b",
            layers=24,
            width=2048,
            heads=32,
            kv_heads=32,
            ffn_width=8192,
            scale_factor=3,
            image_token_id=49153,
            vocab_size=49155,
            text_config={"vocab_size": 49155, "rope_theta": 273768.0},
            vision_config={
                "hidden_size": 1152,
                "image_size": 384,
                "intermediate_size": 4304,
                "max_image_size": {"longest_edge": 384},
                "num_attention_heads": 16,
                "num_hidden_layers": 27,
                "patch_size": 14,
                "size": {"longest_edge": 1536},
            },
        ),
    )
}
