"""Packed encoders and mappers against the modules that they are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from altogether_rt.config import EncoderConfig, MapperConfig
from altogether_rt.config.vision import VitConfig
from altogether_rt.model.encoder import Encoder, build_encoder
from altogether_rt.model.mapper import build_mapper
from altogether_rt.runtime.torch.device.packed_blocks import pack_mapper
from altogether_rt.runtime.torch.device.packed_encoder import PackedEncoder, pack_encoder
from altogether_rt.runtime.torch.device.packing import Packing
from altogether_rt.runtime.torch.device.vision import device_encoder
from altogether_rt.runtime.torch.float8 import to_float8
from tests.tiny import TinyEncoder, tiny_config

CPU = torch.device("cpu")
TOWER = {"image_size": 32, "layers": 2, "width": 48, "head_width": 16, "patch_size": 8}
#: Differences from open_clip's default tower: every pooling and option that is packed.
TOWERS: dict[str, dict[str, Any]] = {
    "class token": {},
    "QuickGELU": {"quick_gelu": True},
    "tanh": {"act_kwargs": {"approximate": "tanh"}},
    "patches of 7, pixels left over": {"patch_size": 7, "image_size": 31},
    "average": {"pool_type": "avg"},
    "average, then norm": {"pool_type": "avg", "final_ln_after_pool": True},
    "no first norm": {"no_ln_pre": True},
    "layer scale": {"ls_init_value": 0.5},
    "one layer": {"layers": 1},
}
#: Options that are not: these towers run themselves.
OTHERS: dict[str, dict[str, Any]] = {
    "attention pooling": {"attentional_pool": True, "attn_pooler_heads": 4},
    "norms of queries and keys": {"qk_norm": True},
    "norm inside the feed-forward": {"scale_fc": True},
}


def clip_encoder(changes: dict[str, Any], **config: Any) -> Encoder:
    settings = {**TOWER, **changes}
    quick = settings.pop("quick_gelu", False)
    size = settings["image_size"]
    model = {"embed_dim": 12, "quick_gelu": quick, "vision_cfg": settings, "text_cfg": {}}
    return shaken(build_encoder(EncoderConfig("tiny", 12, size, model=model, **config)))


def vit_encoder(**changes: Any) -> Encoder:
    vit = VitConfig(48, layers=2, heads=3, ffn_width=80, patch_size=8, **changes)
    config = EncoderConfig("vit", 48, 36, normalize=False, vit=vit)
    return shaken(build_encoder(config))


def shaken(encoder: Encoder) -> Encoder:
    """Random weights, so that no part is the identity."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def pixels_for(encoder: Encoder, count: int = 3) -> Tensor:
    torch.manual_seed(1)
    side = encoder.config.image_size
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8)


def packed(encoder: nn.Module, dtype: torch.dtype = torch.float32, **kind: Any) -> PackedEncoder:
    made = pack_encoder(encoder, Packing(CPU, dtype, **kind))
    assert made is not None
    return made


def cosines(found: Tensor, wanted: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(found.float(), wanted.float(), dim=-1)


@torch.inference_mode()
@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize("normalize", [True, False])
def test_a_tower_of_open_clip(name: str, normalize: bool) -> None:
    encoder = clip_encoder(TOWERS[name], normalize=normalize)
    pixels = pixels_for(encoder)
    wanted = encoder(pixels)
    found = packed(encoder)(pixels)
    torch.testing.assert_close(found, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=1e-5)
    half = packed(encoder, torch.float16)(pixels)
    assert half.dtype == torch.float16
    assert cosines(half, wanted).min() > 0.99999


@torch.inference_mode()
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_a_tower_of_patch_tokens(activation: str) -> None:
    encoder = vit_encoder(activation=activation)
    pixels = pixels_for(encoder)
    wanted = encoder(pixels)
    found = packed(encoder)(pixels)
    assert found.shape == (3, 16, 48)
    torch.testing.assert_close(found, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=1e-5)
    assert cosines(packed(encoder, torch.float16)(pixels), wanted).min() > 0.99999


@torch.inference_mode()
def test_extreme_statistics_of_pixels_are_folded_in() -> None:
    encoder = clip_encoder({}, mean=(0.0, 0.9, 0.5), std=(0.01, 1.0, 3.0))
    pixels = pixels_for(encoder)
    wanted = encoder(pixels)
    torch.testing.assert_close(packed(encoder)(pixels), wanted, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("name", OTHERS)
def test_other_towers_run_themselves(name: str) -> None:
    encoder = clip_encoder(OTHERS[name])
    packing = Packing(CPU, torch.float32)
    assert pack_encoder(encoder, packing) is None
    pixels = pixels_for(encoder)
    torch.testing.assert_close(device_encoder(encoder, packing)(pixels), encoder(pixels))


def test_towers_of_other_makes_are_not_packed() -> None:
    packing = Packing(CPU, torch.float32)
    assert pack_encoder(TinyEncoder(), packing) is None
    model = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
        "text_cfg": {},
    }
    assert pack_encoder(build_encoder(EncoderConfig("rn", 12, 64, model=model)), packing) is None
    changed = clip_encoder({})
    to_float8(changed, lambda name: name.endswith("c_fc"))
    assert pack_encoder(changed, packing) is None  # not all of its layers are plain ones


@torch.inference_mode()
@pytest.mark.parametrize("layers", [1, 3])
def test_a_mapper(layers: int) -> None:
    config = tiny_config()
    config = replace(config, mapper=replace(config.mapper, layers=layers))
    mapper = build_mapper(config).eval()
    with torch.no_grad():
        for parameter in mapper.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    embeddings = torch.randn(5, 12)
    wanted = mapper(embeddings)
    made = pack_mapper(mapper, Packing(CPU, torch.float32))
    assert made is not None
    torch.testing.assert_close(made(embeddings), wanted, atol=1e-5, rtol=1e-5)
    half = pack_mapper(mapper, Packing(CPU, torch.float16))
    assert half is not None
    assert cosines(half(embeddings.half()), wanted).min() > 0.99999


def test_mappers_without_blocks_are_not_packed() -> None:
    packing = Packing(CPU, torch.float32)
    config = tiny_config(mapper="mlp")
    assert pack_mapper(build_mapper(config), packing) is None
    patches = replace(
        config,
        encoder=EncoderConfig("v", 48, 32, normalize=False, vit=VitConfig(48, 1, 3, 80, 8)),
        mapper=MapperConfig(kind="patches", prefix_length=4, shuffle=2),
    )
    assert pack_mapper(build_mapper(patches), packing) is None
    mapper = build_mapper(tiny_config())
    to_float8(mapper)
    assert pack_mapper(mapper, packing) is None


@torch.inference_mode()
@pytest.mark.parametrize("name", ["class token", "average", "layer scale"])
def test_in_fp8_it_stays_near(name: str) -> None:
    encoder = clip_encoder(TOWERS[name])
    pixels = pixels_for(encoder)
    exact, rounded = encoder(pixels), packed(encoder, torch.float16, float8=True)(pixels)
    similar = cosines(rounded, exact)
    assert 0.99 < similar.min() < similar.max() < 0.999999
    alone = packed(encoder, torch.float16, float8=True)(pixels[1:2])
    torch.testing.assert_close(alone[0], rounded[1], rtol=2e-2, atol=2e-3)
