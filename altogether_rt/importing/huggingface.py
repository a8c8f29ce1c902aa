"""Reads decoders in Hugging Face's format: OPT, GPT-2 and Llama, from a folder or the hub.

config.json and the weights are read directly, so that no code of the model's repository runs and
the weights are in memory only once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from altogether_rt.artifacts.json_file import read_json_file
from altogether_rt.config import DecoderConfig
from altogether_rt.errors import AltogetherError, ConfigError, reason
from altogether_rt.importing.names import GPT2, LLAMA, OPT, NameTable, rename
from altogether_rt.importing.structure import tie_head
from altogether_rt.importing.weights import read_folder
from altogether_rt.plain_data import from_dict

__all__ = ["decoder_from_hf", "hub_folder", "llama_structure", "read_json"]

#: Hugging Face's name of an activation -> the name in `DecoderConfig`.
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "silu": "silu"}

_MAX_CONFIG_BYTES = 16 << 20
_CONFIG_FILES = ["config.json"]
_TOKENIZER_FILES = ["tokenizer.json", "vocab.json", "merges.txt"]
_SAFETENSORS_FILES = ["model*.safetensors", "model.safetensors.index.json"]
_PICKLE_FILES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


def decoder_from_hf(source: str) -> tuple[DecoderConfig, dict[str, Tensor]]:
    """The structure and the weights (this package's names, fp32) of a causal language model.

    source: a folder saved by transformers, or a hub id such as `facebook/opt-1.3b`. Raises
    AltogetherError if it cannot be read or fetched, or if the decoder does not support it.
    """
    folder = hub_folder(source, weights=True)
    about = read_json(folder / "config.json")
    family = str(about.get("model_type"))
    if family not in _FAMILIES:
        raise AltogetherError(
            f"{source} is a model of type {family!r}, which is not supported: give one of type "
            f"{', '.join(_FAMILIES)}."
        )
    describe, table = _FAMILIES[family]
    try:
        values = describe(about)
    except (KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        raise AltogetherError(f"the config.json of {source} lacks a value ({error!r}).") from error
    weights = rename(table, read_folder(folder))
    if not values["tied_head"] and "head.weight" not in weights:
        raise AltogetherError(
            f"{source} has no lm_head.weight, though its config.json says that the head is not the "
            "embedding: the files are not whole, or tie_word_embeddings should be true."
        )
    # A head that is stored counts, whatever config.json says of it, as in transformers 5.
    state = tie_head(weights)
    try:
        config = from_dict(
            DecoderConfig, {**values, "family": family, "tied_head": "head.weight" not in state}
        )
    except ConfigError as error:
        raise AltogetherError(
            f"the config.json of {source} has an invalid value: {error}"
        ) from error
    return config, state


def hub_folder(source: str, *, weights: bool) -> Path:
    """The local folder of a model: `source` itself, or a download from the hub.

    weights: whether to download the weights too. Raises AltogetherError if `source` is not a folder
    and cannot be fetched.
    """
    if Path(source).is_dir():
        return Path(source)
    import huggingface_hub

    def fetch(patterns: list[str]) -> Path:
        return Path(huggingface_hub.snapshot_download(source, allow_patterns=patterns))

    try:
        folder = fetch(_CONFIG_FILES + _TOKENIZER_FILES)
        if weights and not any(fetch(_SAFETENSORS_FILES).glob("model*.safetensors")):
            fetch(_PICKLE_FILES)
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise AltogetherError(
            f"{source} is not a folder and cannot be fetched from the hub ({reason}): "
            "give a folder with the model's files."
        ) from error
    return folder


def read_json(path: Path) -> Mapping[str, Any]:
    """A configuration file. Raises AltogetherError if it is not a JSON object."""
    try:
        about = read_json_file(path, _MAX_CONFIG_BYTES)
    except (OSError, ValueError) as error:
        raise AltogetherError(f"{path} cannot be read: {reason(error)}.") from error
    if not isinstance(about, dict):
        raise AltogetherError(f"{path} is not a model's configuration: it must be a JSON object.")
    return about


def _opt(about: Mapping[str, Any]) -> dict[str, Any]:
    _require_default(about, enable_bias=True, layer_norm_elementwise_affine=True)
    width = about["hidden_size"]
    token_width = about.get("word_embed_proj_dim") or width
    pre_norm = about.get("do_layer_norm_before", True)
    return {
        "vocab_size": about["vocab_size"],
        "layers": about["num_hidden_layers"],
        "width": width,
        "heads": about["num_attention_heads"],
        "ffn_width": about["ffn_dim"],
        "max_positions": about["max_position_embeddings"],
        "position_offset": 2,
        **_special_ids(about, eos_id=2, pad_id=1),
        "activation": _activation(about.get("activation_function", "relu")),
        "norm_placement": "pre" if pre_norm else "post",
        "final_norm": pre_norm and not about.get("_remove_final_layer_norm", False),
        "embed_width": None if token_width == width else token_width,
        "tied_head": about.get("tie_word_embeddings", True),
    }


def _gpt2(about: Mapping[str, Any]) -> dict[str, Any]:
    _require_default(about, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False)
    _require_default(about, add_cross_attention=False)
    return {
        "vocab_size": about["vocab_size"],
        "layers": about["n_layer"],
        "width": about["n_embd"],
        "heads": about["n_head"],
        "ffn_width": about.get("n_inner") or 4 * about["n_embd"],
        "max_positions": about["n_positions"],
        **_special_ids(about, eos_id=50256, pad_id=None),
        "activation": _activation(about.get("activation_function", "gelu_new")),
        "norm_eps": about.get("layer_norm_epsilon", 1e-5),
        "tied_head": about.get("tie_word_embeddings", True),
    }


def llama_structure(about: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a `DecoderConfig` for the configuration of a Llama-like model."""
    width, heads = about["hidden_size"], about["num_attention_heads"]
    bias = about.get("attention_bias", False)
    # transformers 5 combines the former rope_theta and rope_scaling.
    rope = about.get("rope_parameters") or about.get("rope_scaling") or {}
    _require_default(about, mlp_bias=bias, head_dim=width // heads, sliding_window=None)
    _require_default(rope, rope_type="default", type="default")
    return {
        "vocab_size": about["vocab_size"],
        "layers": about["num_hidden_layers"],
        "width": width,
        "heads": heads,
        "kv_heads": about.get("num_key_value_heads") or heads,
        "ffn_width": about["intermediate_size"],
        "max_positions": about["max_position_embeddings"],
        **_special_ids(about, eos_id=2, pad_id=None),
        "activation": _activation(about.get("hidden_act", "silu")),
        "gated": True,
        "norm": "rmsnorm",
        "norm_eps": about.get("rms_norm_eps", 1e-6),
        "position": "rotary",
        "rope_theta": rope.get("rope_theta") or about.get("rope_theta", 10000.0),
        "bias": bias,
        "tied_head": about.get("tie_word_embeddings", False),
    }


#: `model_type` -> the function that reads its configuration, and the names of its weights.
_FAMILIES: dict[str, tuple[Callable[[Mapping[str, Any]], dict[str, Any]], NameTable]] = {
    "opt": (_opt, OPT),
    "gpt2": (_gpt2, GPT2),
    "llama": (llama_structure, LLAMA),
}


def _special_ids(about: Mapping[str, Any], *, eos_id: int, pad_id: int | None) -> dict[str, int]:
    """The ids of end and padding; of several end tokens, the first is the tokenizer's."""
    eos = about.get("eos_token_id", eos_id)
    eos = eos[0] if isinstance(eos, list) else eos
    pad = about.get("pad_token_id", pad_id)
    return {"eos_id": eos, "pad_id": eos if pad is None else pad}


def _activation(name: str) -> str:
    if name not in _ACTIVATIONS:
        raise AltogetherError(
            f"a decoder with the activation {name!r} is not supported; supported are "
            f"{', '.join(_ACTIVATIONS)}."
        )
    return _ACTIVATIONS[name]


def _require_default(about: Mapping[str, Any], **defaults: object) -> None:
    """Raises AltogetherError for variants that the decoder does not support."""
    for key, default in defaults.items():
        value = about.get(key, default)
        if value is not None and value != default:
            raise AltogetherError(f"a decoder with {key} = {value!r} is not supported.")
