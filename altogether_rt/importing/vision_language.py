"""Reads captioners whose decoder sees an image's patch tokens: SmolVLM and DistilViT2.

Both are a SigLIP tower, a projector and a Llama-like decoder, published as one model under Hugging
Face's names. Their configurations leave out what is the default of transformers' classes (5.24),
which is written out here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from altogether_rt.config import (
    CaptionerConfig,
    ChatConfig,
    DecoderConfig,
    EncoderConfig,
    GenerationConfig,
    InstructionConfig,
    MapperConfig,
    PromptConfig,
)
from altogether_rt.errors import AltogetherError, ConfigError
from altogether_rt.importing.huggingface import llama_structure, read_json
from altogether_rt.importing.names import LLAMA, PATCH_PROJECTOR, SIGLIP, NameTable, rename
from altogether_rt.importing.structure import check_fit, tie_head
from altogether_rt.importing.tiles import read_tiles
from altogether_rt.importing.tokenizer import tokenizer_json
from altogether_rt.importing.weights import read_folder
from altogether_rt.model.lora import merge_lora
from altogether_rt.plain_data import from_dict

__all__ = [
    "ALT_INSTRUCTION",
    "CAPTION_INSTRUCTION",
    "import_vision_language",
    "is_vision_language",
]

#: What a captioner that follows instructions is asked for: a caption, or the alt-text of a page. A
#: bundle holds them, so that a change of their words is a change of its id.
#:
#: Asked of a small decoder that reads words alone (SmolLM2-135M-Instruct, with facts for an image),
#: wordings that ask for a caption kept more of the alt-text than those that ask to rewrite it, and
#: "the author describes it as" more than "alt-text". Nobody has asked SmolVLM's published weights.
CAPTION_INSTRUCTION = InstructionConfig(
    before_alt="The author of this image describes it as:",
    after_alt="\nWrite a caption that keeps the names, dates and facts that only the author can "
    "know, corrects what the image contradicts, and adds what the image shows. One to three "
    "sentences, without any introduction.",
    no_alt="Write a caption that says what the image shows. One to three sentences, without any "
    "introduction.",
)
ALT_INSTRUCTION = InstructionConfig(
    before_alt="The author of this image describes it as:",
    after_alt="\nWrite the alt-text of a web page that says what the image shows and keeps the "
    "names that only the author can know. One sentence of at most 125 characters, without any "
    'introduction such as "a picture of".',
    no_alt="Write the alt-text of a web page that says what the image shows. One sentence of at "
    'most 125 characters, without any introduction such as "a picture of".',
)
#: Times in a row that a passage ends a caption: small decoders repeat themselves.
_LOOP_REPEATS = 3
#: Room for an instruction that somebody else writes.
_INSTRUCTION_TOKENS = 128

#: transformers' defaults for Idefics3's tower, of which published configurations give a part.
_IDEFICS3_TOWER = {
    "hidden_size": 1152,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "patch_size": 32,
    "image_size": 224,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
#: The same for SigLIP.
_SIGLIP_TOWER = {
    **_IDEFICS3_TOWER,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "patch_size": 16,
}
_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}

_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class _Parts:
    """The weights of the three parts, under published names without their prefixes."""

    tower: dict[str, Tensor]
    projector: dict[str, Tensor]
    decoder: dict[str, Tensor]


def is_vision_language(folder: Path) -> bool:
    """Whether `folder` holds one of the models that `import_vision_language` reads."""
    path = folder / "config.json"
    return path.is_file() and str(read_json(path).get("model_type")) in _FAMILIES


def import_vision_language(
    folder: Path, name: str, longest_edge: int | None = None
) -> tuple[CaptionerConfig, dict[str, Tensor], Tokenizer]:
    """The configuration, the state dict of a checkpoint (encoder included) and the tokenizer.

    The weights have the types that were published, and stay on disk where they can be mapped.

    longest_edge: pixels to which images are resized before they are divided into tiles; None: an
    image is one tile. Raises AltogetherError if a file is absent or damaged, or the model has a
    part that this package does not, or does not read tiles.
    """
    about = read_json(folder / "config.json")
    family = str(about.get("model_type"))
    if family not in _FAMILIES:
        raise AltogetherError(
            f"{folder} is a model of type {family!r}, which is not supported: give one of type "
            f"{', '.join(_FAMILIES)}."
        )
    tokenizer = Tokenizer.from_str(tokenizer_json(folder))
    try:
        config, parts = _FAMILIES[family](folder, about, tokenizer, name)
        if longest_edge is not None:
            config = replace(config, tiles=read_tiles(config, tokenizer, longest_edge))
    except ConfigError as error:
        raise AltogetherError(f"the configuration of {folder} is not valid: {error}") from error
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise AltogetherError(f"the config.json of {folder} lacks a value ({error!r}).") from error
    state = _renamed("encoder", SIGLIP, parts.tower)
    state |= _renamed("mapper", PATCH_PROJECTOR, parts.projector)
    state |= _renamed("decoder", LLAMA, parts.decoder)
    if "lm_head.weight" in parts.decoder and "decoder.head.weight" not in state:
        # It repeats the embedding, whatever the configuration says of it.
        config = replace(config, decoder=replace(config.decoder, tied_head=True))
    check_fit(config, state)
    return config, state, tokenizer


def _idefics3(
    folder: Path, about: Mapping[str, Any], tokenizer: Tokenizer, name: str
) -> tuple[CaptionerConfig, _Parts]:
    text = dict(about["text_config"])
    for flag in ("qk_layer_norms", "use_resampler", "rope_interleaved"):
        if text.get(flag) or about.get(flag):
            raise AltogetherError(f"a captioner with {flag} is not supported.")
    state = read_folder(folder)
    parts = _Parts(
        _part(state, "model.vision_model.", "vision_model."),
        _part(state, "model.connector.modality_projection.", "connector.modality_projection."),
        _part(state, "model.text_model.", "text_model.") | _part(state, "lm_head.", keep=True),
    )
    # The end is that of the answer, which the text model's configuration does not know.
    generation_path = folder / "generation_config.json"
    generation = read_json(generation_path) if generation_path.is_file() else {}
    eos = generation.get("eos_token_id") or tokenizer.token_to_id("<end_of_utterance>")
    tied = about.get("tie_word_embeddings", False) and "lm_head.weight" not in parts.decoder
    decoder = _decoder({**text, "tie_word_embeddings": tied, "eos_token_id": eos})
    encoder = _encoder({**_IDEFICS3_TOWER, **about["vision_config"]}, name, "lanczos")
    config = CaptionerConfig(
        name,
        encoder,
        _projector(encoder, shuffle=about.get("scale_factor", 2), bias=False),
        decoder,
        _chat(tokenizer),
        GenerationConfig(max_new_tokens=96, temperature=0.0, loop_repeats=_LOOP_REPEATS),
    )
    return config, parts


def _chat(tokenizer: Tokenizer) -> PromptConfig:
    """One turn of SmolVLM's chat with a single tile, around visual tokens and alt-text."""

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False).ids)

    around = "<fake_token_around_image>"
    answer = "<end_of_utterance>\nAssistant:"
    asked = CAPTION_INSTRUCTION
    longest = max(
        max(len(ids(a.before_alt)) + len(ids(a.after_alt)), len(ids(a.no_alt)))
        for a in (CAPTION_INSTRUCTION, ALT_INSTRUCTION)
    )
    return PromptConfig(
        before_ids=ids(f"<|im_start|>User:{around}<global-img>"),
        after_ids=ids(around + asked.before_alt),
        alt_prefix=" ",
        suffix_ids=ids(asked.after_alt + answer),
        no_alt_ids=ids(around + asked.no_alt + answer),
        chat=ChatConfig(
            caption=asked,
            alt=ALT_INSTRUCTION,
            image_end_ids=ids(around),
            answer_ids=ids(answer),
            max_instruction_tokens=max(_INSTRUCTION_TOKENS, longest),
        ),
    )


def _distilvit(
    folder: Path, about: Mapping[str, Any], tokenizer: Tokenizer, name: str
) -> tuple[CaptionerConfig, _Parts]:
    state = read_folder(folder)
    scale = about.get("lora_alpha", 16) / about.get("lora_r", 16)
    parts = _Parts(
        _part(state, "vision_encoder.vision_model.", "vision_encoder."),
        _part(state, "projection.projection."),
        _part(merge_lora(state, scale), "language_model.base_model.model.", "language_model."),
    )
    decoder = _decoder({"tie_word_embeddings": True, **about["text_config"]})
    encoder = _encoder({**_SIGLIP_TOWER, **about["vision_config"]}, name, "bicubic")
    hidden = about["mlp_hidden_dim"] if about.get("projection_type") == "mlp" else None
    config = CaptionerConfig(
        name,
        encoder,
        _projector(encoder, hidden=hidden),
        decoder,
        PromptConfig(max_alt_tokens=0, use_alt=False),
        GenerationConfig(max_new_tokens=about.get("max_length", 30), temperature=0.0),
    )
    return config, parts


_Read = Callable[
    [Path, Mapping[str, Any], Tokenizer, str],
    tuple[CaptionerConfig, _Parts],
]
_FAMILIES: dict[str, _Read] = {
    "idefics3": _idefics3,
    "smolvlm": _idefics3,
    "prefix_conditioning_vlm": _distilvit,
}


def _renamed(part: str, table: NameTable, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a part in the types that were published, so that it may stay on disk."""
    renamed = tie_head(rename(table, weights, convert=False))
    return {f"{part}.{name}": tensor for name, tensor in renamed.items()}


def _part(state: Mapping[str, Tensor], *prefixes: str, keep: bool = False) -> dict[str, Tensor]:
    """The tensors under the first of the prefixes that any has; keep: with their prefix."""
    for prefix in prefixes:
        found = {k: v for k, v in state.items() if k.startswith(prefix)}
        if found:
            return found if keep else {k.removeprefix(prefix): v for k, v in found.items()}
    return {}


def _decoder(text: Mapping[str, Any]) -> DecoderConfig:
    return from_dict(DecoderConfig, {**llama_structure(text), "family": "llama"}, "decoder")


def _encoder(vision: Mapping[str, Any], name: str, interpolation: str) -> EncoderConfig:
    activation = vision["hidden_act"]
    if activation not in _ACTIVATIONS:
        raise AltogetherError(f"a vision tower with the activation {activation!r} is unknown.")
    values = {
        "name": name,
        "embed_dim": vision["hidden_size"],
        "image_size": vision["image_size"],
        "resize": "squash",
        "interpolation": interpolation,
        "mean": _HALF,
        "std": _HALF,
        "normalize": False,
        "vit": {
            "width": vision["hidden_size"],
            "layers": vision["num_hidden_layers"],
            "heads": vision["num_attention_heads"],
            "ffn_width": vision["intermediate_size"],
            "patch_size": vision["patch_size"],
            "activation": _ACTIVATIONS[activation],
            "norm_eps": vision["layer_norm_eps"],
        },
    }
    return from_dict(EncoderConfig, values, "encoder")


def _projector(
    encoder: EncoderConfig, *, shuffle: int = 1, hidden: int | None = None, bias: bool = True
) -> MapperConfig:
    grid = encoder.grid
    assert grid is not None
    return MapperConfig(
        kind="patches",
        prefix_length=(grid // shuffle) ** 2,
        shuffle=shuffle,
        hidden=hidden,
        bias=bias,
    )
