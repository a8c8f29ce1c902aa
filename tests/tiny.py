"""Tiny captioners with random weights, one of every decoder family, and bundles made of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

import altogether_rt.export.encoder as encoder_module
from altogether_rt.artifacts.checkpoint import Checkpoint, save_checkpoint
from altogether_rt.config import (
    CaptionerConfig,
    DecoderConfig,
    EncoderConfig,
    GenerationConfig,
    MapperConfig,
    PromptConfig,
)
from altogether_rt.export.bundling import ExportSource
from altogether_rt.export.samples import Samples
from altogether_rt.export.weights import MappedWeights
from altogether_rt.model.captioner import CaptionerModel

MapperKind = Literal["transformer", "mlp"]

#: Structure of the families that the decoder covers.
FAMILIES: dict[str, dict[str, Any]] = {
    "opt": {"position_offset": 2},
    "opt-350m": {
        "position_offset": 2,
        "norm_placement": "post",
        "final_norm": False,
        "embed_width": 24,
    },
    "gpt2": {"activation": "gelu_tanh"},
    "llama": {
        "norm": "rmsnorm",
        "position": "rotary",
        "activation": "silu",
        "gated": True,
        "bias": False,
        "kv_heads": 2,
        "tied_head": False,
    },
}
IMAGE_SIZE, EMBED_DIM, VOCAB_SIZE = 16, 12, 97


class TinyEncoder(nn.Module):
    """Pixels normalised, one patch layer, one hidden layer, a unit vector out."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.hidden = nn.Linear(16, 32)
        self.out = nn.Linear(4 * 32, EMBED_DIM, bias=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = (pixels.float() / 255 - 0.5).permute(0, 3, 1, 2)
        x = self.patch(x).flatten(2).transpose(1, 2)  # (N, 4, 16)
        x = torch.relu(self.hidden(x)).flatten(1)
        return nn.functional.normalize(self.out(x), dim=-1)


def tiny_config(family: str = "opt", mapper: MapperKind = "transformer") -> CaptionerConfig:
    decoder = DecoderConfig(
        vocab_size=VOCAB_SIZE,
        layers=2,
        width=64,
        heads=4,
        ffn_width=96,
        max_positions=48,
        eos_id=2,
        pad_id=1,
        family=family,
        **FAMILIES[family],
    )
    return CaptionerConfig(
        name=f"tiny-{family}",
        encoder=EncoderConfig("tiny", EMBED_DIM, IMAGE_SIZE, mean=(0.5,) * 3, std=(1.0,) * 3),
        mapper=MapperConfig(kind=mapper, prefix_length=4, clip_length=3, layers=2, heads=4),
        decoder=decoder,
        prompt=PromptConfig(max_alt_tokens=10),
        generation=GenerationConfig(max_new_tokens=20),
    )


def tiny_model(config: CaptionerConfig, seed: int = 0) -> CaptionerModel:
    """Random weights, large enough that every part of the model matters to the logits."""
    torch.manual_seed(seed)
    model = CaptionerModel(config, TinyEncoder())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if parameter.ndim == 1:
                parameter.copy_(0.1 * noise + ("norm" in name and name.endswith("weight")))
            else:
                parameter.copy_(0.15 * noise)
    return model.eval()


def tiny_tokenizer(path: Path) -> Path:
    """A tokenizer file whose ids all fit the tiny vocabulary."""
    vocabulary = {f"w{index}": index for index in range(VOCAB_SIZE)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path))
    return path


_traced: dict[int, Any] = {}


@contextmanager
def tiny_encoder_traced_once() -> Iterator[None]:
    """While this lasts, the encoder of a seed is traced by torch only once, which takes seconds."""
    trace = encoder_module.trace_encoder

    def cached(module: Any, image_size: int) -> Any:
        key = hash(module.out.weight.detach().numpy().tobytes())
        if key not in _traced:
            _traced[key] = trace(module, image_size)
        return _traced[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder_module, "trace_encoder", cached)
        yield


def tiny_source(config: CaptionerConfig, folder: Path, seed: int = 0) -> ExportSource:
    state = tiny_model(config, seed).state_dict()
    return ExportSource(
        config=config,
        weights=MappedWeights({name: tensor.numpy() for name, tensor in state.items()}),
        load_model=lambda: tiny_model(config, seed),
        tokenizer_path=tiny_tokenizer(folder / "tokenizer.json"),
        provenance={"checkpoint": {"name": config.name}},
    )


def tiny_samples(rows: int = 4, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (rows, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    lengths = [0, 7, 3, 10, 1, 5][:rows]
    prompts = tuple(tuple(rng.integers(3, VOCAB_SIZE, n).tolist()) for n in lengths)
    return Samples(pixels, prompts, "noise")


def save_tiny_checkpoint(parent: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of the tiny model; its encoder, which open_clip does not know, is given back."""
    config = tiny_config()
    model = tiny_model(config)
    state = {name: value for name, value in model.state_dict().items() if "encoder" not in name}
    tokenizer = tiny_tokenizer(parent / "tokenizer.json")
    save_checkpoint(parent / "ckpt", config, state, tokenizer, {})
    monkeypatch.setattr(Checkpoint, "encoder", lambda self: model.encoder)
    return parent / "ckpt"
