"""What a captioner is: every value that changes the numbers, as frozen data.

A configuration is read from JSON (inside a checkpoint or a bundle) or from TOML (the named
configurations shipped in `named`). Unknown keys fail, derived values are properties, and nothing
here depends on the name of a model.
"""

from altogether_rt.config.captioner import MAX_DRAFT_TOKENS, CaptionerConfig
from altogether_rt.config.files import load_config, named_config, named_configs
from altogether_rt.config.text import (
    MAX_INSTRUCTION_CHARS,
    ChatConfig,
    DecoderConfig,
    GenerationConfig,
    InstructionConfig,
    PromptConfig,
)
from altogether_rt.config.vision import (
    CLIP_MEAN,
    CLIP_STD,
    EncoderConfig,
    MapperConfig,
    TilesConfig,
    VitConfig,
)

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "MAX_DRAFT_TOKENS",
    "MAX_INSTRUCTION_CHARS",
    "CaptionerConfig",
    "ChatConfig",
    "DecoderConfig",
    "EncoderConfig",
    "GenerationConfig",
    "InstructionConfig",
    "MapperConfig",
    "PromptConfig",
    "TilesConfig",
    "VitConfig",
    "load_config",
    "named_config",
    "named_configs",
]
