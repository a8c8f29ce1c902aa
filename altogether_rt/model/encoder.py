"""The frozen image encoder: the vision tower of any open_clip model, or one that gives patches."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altogether_rt.config import EncoderConfig
from altogether_rt.errors import AltogetherError, ConfigError, reason
from altogether_rt.model._torchvision import make_torchvision_importable
from altogether_rt.model.quiet import quiet_logging
from altogether_rt.model.torchscript import is_torchscript, read_torchscript
from altogether_rt.model.vit import Vit
from altogether_rt.model.weight_files import check_weights_file, loading_failure

__all__ = [
    "Encoder",
    "build_clip",
    "build_encoder",
    "check_local",
    "encoder_sha256",
    "is_published",
    "with_architecture",
]

#: Prefixes by which open_clip names models that do not come with it: on a hub, in a folder.
_SCHEMES = ("hf-hub:", "local-dir:")

#: Numbers that OpenAI's archives have beside their weights.
_SIZES = ("input_resolution", "context_length", "vocab_size")

#: Names in the message of torch's load_state_dict.
_MISSING = re.compile(r'"([\w.]+)"')

#: Stub text tower, for where only the vision tower is needed.
_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}


class Encoder(nn.Module):
    """Pixels to the embedding: pooled, and normalised if `config` says so; or the patch tokens."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig, visual: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.visual = visual
        mean, std = torch.tensor(config.mean), torch.tensor(config.std)
        self.register_buffer("mean", mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (N, H, W, 3) -> embeddings (N, E) or (N, patches, E)."""
        image = pixels.permute(0, 3, 1, 2).to(self.mean.dtype) / 255
        embeddings = self.visual((image - self.mean) / self.std)
        if isinstance(embeddings, tuple):  # CoCa's tower also returns its patch tokens
            embeddings = embeddings[0]
        return F.normalize(embeddings, dim=-1) if self.config.normalize else embeddings


def is_published(name: str) -> bool:
    """Whether `name` is a published model with weights: `hf-hub:org/repo`, `local-dir:path`."""
    return name.startswith(_SCHEMES)


def build_clip(
    config: EncoderConfig, weights: str | None = None, *, allow_download: bool = False
) -> nn.Module:
    """The open_clip model of `config`, text tower included.

    weights: a local file (a state dict, or a TorchScript archive as OpenAI's, whose program is not
    run), one of open_clip's pretrained tags, or a published model (`hf-hub:org/repo`,
    `local-dir:path`); None for random weights, unless `config.name` is a published model itself.
    allow_download: whether whoever chose `config` and `weights` may make
    this machine fetch something, or open something else than the file `weights`. Raises
    AltogetherError if open_clip does not know the model or cannot load the weights, or if it would
    have to fetch a part.
    """
    if not allow_download:
        check_local(config, weights)
    archive = None
    if weights is not None and Path(weights).is_file():
        archive = Path(weights) if is_torchscript(Path(weights)) else None
        check_weights_file(Path(weights), torchscript=archive is not None)
    open_clip = _open_clip()
    with _as_sentences(config, weights):
        if archive is not None:
            model = _with_archive(open_clip, config, archive)
        elif weights is not None and is_published(weights):
            model = open_clip.create_model(weights, device="cpu", require_pretrained=True)
        elif config.model is None:
            model = open_clip.create_model(config.name, pretrained=weights, device="cpu")
        else:
            model = _assemble(open_clip, config.model)
            if weights is not None:
                open_clip.load_checkpoint(model, weights)
    module: nn.Module = model
    return module


def _with_archive(open_clip: Any, config: EncoderConfig, archive: Path) -> Any:
    """The model of `config` with the weights of a TorchScript archive, in float32."""
    state = read_torchscript(archive)
    for name in _SIZES:
        state.pop(name, None)
    if config.model is None:
        model = open_clip.create_model(config.name, device="cpu")
    else:
        model = _assemble(open_clip, config.model)
    model.load_state_dict(state)
    return model


def build_encoder(
    config: EncoderConfig, weights: str | None = None, *, allow_download: bool = False
) -> Encoder:
    """The encoder of `config`, frozen; arguments and errors as for `build_clip`.

    Weights are those of an open_clip model; with `config.vit` they are random. Raises ConfigError
    if the sizes of the model's images or embeddings differ from `config`.
    """
    clip: Any
    if config.vit is not None:
        if weights is not None:
            raise AltogetherError(f"{weights} cannot be the weights of an encoder of patch tokens.")
        return Encoder(config, Vit(config)).eval().requires_grad_(False)
    if weights is None and (config.model is not None or not is_published(config.name)):
        if not allow_download:
            check_local(config, None)
        clip = _build_vision(config)  # random weights: the text tower is not needed
    else:
        clip = build_clip(config, weights, allow_download=allow_download)
    encoder = Encoder(config, clip.visual).eval().requires_grad_(False)
    size = config.image_size
    try:
        with torch.no_grad():
            width = encoder(torch.zeros(1, size, size, 3, dtype=torch.uint8)).shape[-1]
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"{config.name} does not take images of {size} pixels.") from error
    if width != config.embed_dim:
        raise ConfigError(
            f"{config.name} makes embeddings of length {width}, not {config.embed_dim}."
        )
    return encoder


def check_local(config: EncoderConfig, weights: str | None) -> None:
    """Raises AltogetherError if the encoder is not made of `config` and the file `weights` alone.

    open_clip and timm take names that make them fetch a model, or open one anywhere on this disk.
    """
    model, named = config.model, []
    if model is None and is_published(config.name):
        named.append(config.name)
    elif model is None and config.name in _open_clip().list_models():
        model = _named_model(config.name)
    if weights is not None and not Path(weights).is_file():
        named.append(weights)
    tower, text = ((model or {}).get(key) for key in ("vision_cfg", "text_cfg"))
    if isinstance(tower, Mapping):
        timm_name = str(tower.get("timm_model_name", ""))
        fetched = weights is not None and tower.get("timm_model_pretrained")
        named += [timm_name] if fetched or set(timm_name) & set(":/") else []
    if weights is not None and isinstance(text, Mapping) and text.get("hf_model_name"):
        named.append(str(text["hf_model_name"]))
    if named:
        raise AltogetherError(
            f"the encoder {config.name!r:.60} needs {named[0]!r:.100}, which would be downloaded, "
            "or opened elsewhere on this machine: pass --allow-download if you trust where it "
            "comes from."
        )


def encoder_sha256(encoder: Encoder) -> str:
    """SHA-256 of the vision tower's weights, independent of the file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.visual.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _build_vision(config: EncoderConfig) -> nn.Module:
    """A model with random weights whose text tower is a stub."""
    model = _named_model(config.name) if config.model is None else config.model
    settings = {
        "embed_dim": model.get("embed_dim"),
        "vision_cfg": {**model.get("vision_cfg", {}), "timm_model_pretrained": False},
        "quick_gelu": model.get("quick_gelu", False),
        "text_cfg": _NO_TEXT,
    }
    with _as_sentences(config, None):
        return _assemble(_open_clip(), settings)


def _named_model(name: str) -> Mapping[str, Any]:
    model: Mapping[str, Any] | None = _open_clip().get_model_config(name.replace("/", "-"))
    if model is None:
        raise AltogetherError(
            f"open_clip has no model called {name!r}: see open_clip.list_models() for its names."
        )
    return model


def _assemble(open_clip: Any, model: Mapping[str, Any]) -> nn.Module:
    """The model described in open_clip's JSON format, with random weights."""
    settings = copy.deepcopy(dict(model))
    custom_text = settings.pop("custom_text", False)
    if "multimodal_cfg" in settings:
        kind = open_clip.CoCa
    else:
        kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    module: nn.Module = kind(**settings)
    return module


def _open_clip() -> Any:
    make_torchvision_importable()
    import open_clip

    return open_clip


@contextmanager
def _as_sentences(config: EncoderConfig, weights: str | None) -> Iterator[None]:
    """Turn what open_clip raises into an AltogetherError, and hide its warnings."""
    try:
        with quiet_logging():  # it warns that no pretrained weights were loaded, which is intended
            yield
    except AltogetherError:
        raise
    except Exception as error:  # from torch, safetensors, timm or the hub's client
        if weights is not None and Path(weights).is_file():
            raise _weights_failure(config, Path(weights), error) from error
        raise AltogetherError(
            f"open_clip cannot make the encoder {config.name!r:.60}"
            f"{f' with the weights {weights}' if weights else ''}: {reason(error, 300)}."
        ) from error


def _weights_failure(config: EncoderConfig, path: Path, error: Exception) -> AltogetherError:
    missing = _MISSING.findall(str(error).partition("Unexpected key")[0])
    if not missing:
        return loading_failure(path, error)
    towers = {name.partition(".")[0] for name in missing}
    lacks = "the vision tower" if "visual" in towers else "the text tower"
    return AltogetherError(
        f"the weights in {path} are not those of the whole open_clip model {config.name!r:.60}: "
        f"{missing[-1]} and {len(missing) - 1} others are missing, {lacks} among them; give the "
        "state dict of the whole model, whose names begin with visual. in the vision tower, or "
        "another --encoder-name."
    )


def with_architecture(config: EncoderConfig) -> EncoderConfig:
    """`config` with open_clip's description of the model written out, where open_clip has one.

    With it, a bundle describes its encoder without open_clip; `bench` counts operations from it.
    """
    if config.model is not None or config.vit is not None:
        return config
    open_clip = _open_clip()
    if config.name not in open_clip.list_models():  # from elsewhere; asking would go to the hub
        return config
    return dataclasses.replace(config, model=open_clip.get_model_config(config.name))
