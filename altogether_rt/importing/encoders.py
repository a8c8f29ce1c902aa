"""The image encoders that captioners were trained with; their weights are published separately."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from altogether_rt.artifacts.bundle import hash_file
from altogether_rt.artifacts.json_file import read_json_file
from altogether_rt.config import CLIP_MEAN, CLIP_STD, EncoderConfig
from altogether_rt.errors import AltogetherError, ConfigError, reason
from altogether_rt.model._torchvision import make_torchvision_importable
from altogether_rt.model.encoder import build_encoder, is_published
from altogether_rt.plain_data import from_dict

__all__ = [
    "check_encoder_weights",
    "embedded_encoder",
    "encoder_config",
    "encoder_reference",
    "published_weights",
]

_MAX_CONFIG_BYTES = 1 << 20

#: Width of the embedding -> the encoder (open_clip's name) that the published captioners use:
#: ClipCap's two (OpenAI's CLIP) and Altogether's (MetaCLIP).
_BY_WIDTH = {512: "ViT-B-32-quickgelu", 640: "RN50x4-quickgelu", 1024: "ViT-H-14-quickgelu"}


def published_weights(name: str, family: str) -> str | None:
    """The encoder weights (open_clip's tag) used with a decoder family; None if unknown.

    The name of a published model (`hf-hub:…`, `local-dir:…`) also stands for its weights.
    """
    if is_published(name):
        return name
    if name == "ViT-B-32-quickgelu":
        return "openai" if family == "gpt2" else "metaclip_fullcc"
    return {"RN50x4-quickgelu": "openai", "ViT-H-14-quickgelu": "metaclip_fullcc"}.get(name)


def encoder_config(
    embed_dim: int | None, *, normalize: bool, name: str | None = None, tag: str | None = None
) -> EncoderConfig:
    """The configuration of the encoder whose embeddings have the width `embed_dim`.

    embed_dim: None for the width that the encoder `name` has.
    name: open_clip's name, a published model (`hf-hub:org/repo`, `local-dir:path`) or a JSON file
    in open_clip's format; None: the encoder of the published captioners with that width. tag: of
    its weights, which may need their own channel statistics. Raises AltogetherError if there is no
    such encoder, ConfigError if its embeddings have another width.
    """
    if name is None and embed_dim is not None:
        name = _BY_WIDTH.get(embed_dim)
    if name is None:
        raise AltogetherError(
            f"no published encoder has embeddings of width {embed_dim}: give the encoder that the "
            "captioner was trained with (--encoder-name)."
        )
    model, pixels = _describe(name, tag)
    try:
        width, size = model["embed_dim"], model["vision_cfg"]["image_size"]
    except (KeyError, TypeError) as error:
        raise AltogetherError(
            f"{name} is not the configuration of an open_clip model: it lacks {error}."
        ) from error
    if embed_dim not in (None, width):
        raise ConfigError(
            f"{name} has embeddings of width {width}, but the captioner takes {embed_dim}: give "
            "the encoder that it was trained with (--encoder-name)."
        )
    custom = name.endswith(".json")
    values = {
        "name": Path(name).stem if custom else name,
        "embed_dim": width,
        "image_size": size,
        "resize": "squash" if pixels.get("resize_mode") == "squash" else "shortest_center_crop",
        "interpolation": pixels.get("interpolation", "bicubic"),
        "mean": pixels.get("mean", CLIP_MEAN),
        "std": pixels.get("std", CLIP_STD),
        "normalize": normalize,
        "model": model if custom else None,
    }
    return from_dict(EncoderConfig, values, "encoder")


def _describe(name: str, tag: str | None) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """A model's configuration and the preprocessing of its weights, both in open_clip's format."""
    if name.endswith(".json"):
        return _read_table(Path(name)), {}
    if is_published(name):
        about = _read_table(_published_description(name))
        return about.get("model_cfg", about), about.get("preprocess_cfg", {})
    make_torchvision_importable()
    import open_clip

    model = open_clip.get_model_config(name)
    if model is None:
        raise AltogetherError(f"open_clip has no model {name!r}: see open_clip.list_models().")
    return model, open_clip.get_pretrained_cfg(name, tag) if tag else {}


def _published_description(name: str) -> Path:
    """The configuration file of a model on the hub or in a folder."""
    scheme, _, location = name.partition(":")
    file = "open_clip_config.json"
    if scheme == "local-dir":
        return Path(location) / file
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(location, file))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise AltogetherError(f"{name} cannot be fetched from the hub: {reason}.") from error


def check_encoder_weights(config: EncoderConfig, weights: str) -> None:
    """Raises AltogetherError if `build_encoder` cannot load `weights`.

    They can be a file, a tag that open_clip has for the model, or a published model
    (`hf-hub:org/repo`).
    """
    if Path(weights).is_file() or is_published(weights):
        return
    make_torchvision_importable()
    import open_clip

    tags = [] if config.model else open_clip.list_pretrained_tags_by_model(config.name)
    if weights not in tags:
        raise AltogetherError(
            f"{weights} is neither a file nor one of open_clip's weights of {config.name} "
            f"({', '.join(tags) or 'it has none'})."
        )


def embedded_encoder(config: EncoderConfig, weights: str | None) -> dict[str, Tensor]:
    """The encoder's weights as a checkpoint embeds them, `encoder.*`; random without `weights`.

    `config` and `weights` are the user's own choice, and may be downloaded.

    Raises AltogetherError if they cannot be loaded.
    """
    visual = build_encoder(config, weights, allow_download=True).visual
    return {f"encoder.{name}": tensor for name, tensor in visual.state_dict().items()}


def encoder_reference(weights: str | None) -> dict[str, Any]:
    """The encoder's entry in checkpoint.json: its tag, or name and hash of the embedded file."""
    if weights is None:
        return {}
    path = Path(weights)
    if not path.is_file():
        return {"encoder_weights": weights}
    return {"encoder_file": path.name, "encoder_sha256": hash_file(path)}


def _read_table(path: Path) -> dict[str, Any]:
    try:
        model = read_json_file(path, _MAX_CONFIG_BYTES)
    except (OSError, ValueError) as error:
        raise AltogetherError(
            f"{path} is not an open_clip configuration: {reason(error)}."
        ) from error
    if not isinstance(model, dict):
        raise AltogetherError(
            f"{path} is not an open_clip configuration: it must be a JSON object."
        )
    return model
