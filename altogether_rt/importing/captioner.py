"""Converts the trained weights of ClipCap and Altogether to a captioner of this package.

In both, `clip_project.*` is the mapper and `gpt.*` the decoder under Hugging Face's names: OPT in
Altogether, GPT-2 in ClipCap. ClipCap publishes the state dict itself; Altogether's code saves a
training checkpoint that contains it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from torch import Tensor

from altogether_rt.artifacts.tokenizer import check_token_ids
from altogether_rt.config import (
    CaptionerConfig,
    DecoderConfig,
    EncoderConfig,
    GenerationConfig,
    PromptConfig,
)
from altogether_rt.errors import AltogetherError
from altogether_rt.importing.encoders import encoder_config, published_weights
from altogether_rt.importing.names import (
    CLIPCAP_MLP,
    CLIPCAP_TRANSFORMER,
    GPT2,
    OPT,
    NameTable,
    rename,
)
from altogether_rt.importing.structure import (
    check_fit,
    decoder_structure,
    mapper_structure,
    tie_head,
)
from altogether_rt.importing.weights import check_finite, find_state, read_folder, read_weights

__all__ = [
    "PUBLISHED_TOKENIZER",
    "ImportedWeights",
    "default_encoder_tag",
    "import_captioner",
    "read_captioner",
]

MAPPER, DECODER = "clip_project.", "gpt."

#: The published tokenizer of each decoder family, fetched if the user gives none.
PUBLISHED_TOKENIZER = {"opt": "facebook/opt-1.3b", "gpt2": "openai-community/gpt2"}


@dataclass(frozen=True)
class ImportedWeights:
    """The weights of a published captioner under this package's names, without a configuration."""

    family: str  # opt or gpt2
    mapper: Mapping[str, Tensor]
    decoder: Mapping[str, Tensor]

    @property
    def published_tokenizer(self) -> str:
        """The hub id of the tokenizer that the published captioners of this family use."""
        return PUBLISHED_TOKENIZER[self.family]


def read_captioner(path: Path) -> ImportedWeights:
    """The mapper and the decoder in a file of weights, or in a folder of several.

    Raises AltogetherError if the file is damaged or hostile, is not a captioner of these kinds, or
    has weights that are not finite.
    """
    loaded = read_folder(path) if path.is_dir() else read_weights(path)
    state = find_state(loaded, MAPPER)
    mapper = _part(state, MAPPER)
    decoder = _part(state, DECODER)
    other = [name for name in state if not name.startswith((MAPPER, DECODER))]
    if not mapper or not decoder or other:
        problem = f"also has {other[0]!r}" if other and mapper and decoder else "lacks some of them"
        raise AltogetherError(
            f"{path} is not a captioner of ClipCap or Altogether, whose weights are named "
            f"clip_project.* and gpt.*: it {problem}."
        )
    check_finite(state, path)
    family, table = _family(decoder, path)
    mapper_table = CLIPCAP_TRANSFORMER if "prefix_const" in mapper else CLIPCAP_MLP
    return ImportedWeights(family, rename(mapper_table, mapper), tie_head(rename(table, decoder)))


def import_captioner(
    weights: ImportedWeights,
    tokenizer: Tokenizer,
    *,
    name: str,
    mapper_heads: int = 8,
    decoder_heads: int | None = None,
    encoder_name: str | None = None,
    encoder_tag: str | None = None,
    normalize: bool | None = None,
) -> tuple[CaptionerConfig, dict[str, Tensor]]:
    """The configuration that the weights imply, and the state dict of a checkpoint.

    mapper_heads, decoder_heads: numbers of attention heads, which shapes do not show; decoder_heads
    None: those of the published model of that width. encoder_name, encoder_tag: as for
    `encoder_config`. normalize: whether the encoder's embedding is normalised; None: as published
    (all but ClipCap's MLP). Raises AltogetherError if something is unknown or contradictory.
    """
    decoder = _decoder_config(weights, tokenizer, decoder_heads)
    check_token_ids(tokenizer, decoder.vocab_size, "the tokenizer")
    mapper, embed_dim = mapper_structure(weights.mapper, decoder.token_width, mapper_heads)
    if normalize is None:
        normalize = mapper.kind == "transformer"
    encoder: EncoderConfig = encoder_config(
        embed_dim, normalize=normalize, name=encoder_name, tag=encoder_tag
    )
    prompt, generation = _usage(weights.family, tokenizer)
    config = CaptionerConfig(name, encoder, mapper, decoder, prompt, generation)
    state = {f"mapper.{k}": v for k, v in weights.mapper.items()}
    state |= {f"decoder.{k}": v for k, v in weights.decoder.items()}
    check_fit(config, state)
    return config, state


def default_encoder_tag(config: CaptionerConfig) -> str | None:
    """The tag of the encoder weights that captioners of this kind were trained with, if known."""
    return published_weights(config.encoder.name, config.decoder.family)


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _family(decoder: Mapping[str, Tensor], path: Path) -> tuple[str, NameTable]:
    for family, table, name in (("opt", OPT, "embed_tokens.weight"), ("gpt2", GPT2, "wte.weight")):
        if any(f"{prefix}{name}" in decoder for prefix in table.prefixes):
            return family, table
    raise AltogetherError(f"the decoder in {path} is neither OPT nor GPT-2.")


def _decoder_config(
    weights: ImportedWeights, tokenizer: Tokenizer, heads: int | None
) -> DecoderConfig:
    end = "</s>" if weights.family == "opt" else "<|endoftext|>"
    eos_id, pad_id = tokenizer.token_to_id(end), tokenizer.token_to_id("<pad>")
    if eos_id is None:
        raise AltogetherError(f"the tokenizer has no {end}: give the tokenizer of this decoder.")
    return decoder_structure(
        weights.decoder,
        weights.family,
        eos_id=eos_id,
        pad_id=eos_id if pad_id is None else pad_id,
        heads=heads,
    )


def _usage(family: str, tokenizer: Tokenizer) -> tuple[PromptConfig, GenerationConfig]:
    """How captioners of a family are prompted and how their captions end."""
    if family == "gpt2":  # ClipCap: no alt-text; a caption is one sentence of at most 67 tokens
        stop_id = tokenizer.token_to_id(".")
        return PromptConfig(max_alt_tokens=0, use_alt=False), GenerationConfig(
            max_new_tokens=67,
            temperature=0.0,  # the closest to the beam search of the published captions
            top_p=0.8,
            stop_ids=() if stop_id is None else (stop_id,),
        )
    # The public training code pads the alt-text to 128 tokens on the left and attends the padding.
    return PromptConfig(max_alt_tokens=128, padding="attended_left"), GenerationConfig()
