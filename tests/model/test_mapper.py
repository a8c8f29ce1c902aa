"""The mappers against the same arithmetic written in NumPy, one image and one head at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from altogether_rt.config import (
    CaptionerConfig,
    DecoderConfig,
    EncoderConfig,
    MapperConfig,
)
from altogether_rt.errors import ConfigError
from altogether_rt.model.mapper import build_mapper

Floats = NDArray[np.float64]
KINDS = ("weight", "bias")


def config_of(mapper: MapperConfig, embed_dim: int, width: int) -> CaptionerConfig:
    decoder = DecoderConfig(
        vocab_size=11,
        layers=1,
        width=width,
        heads=4,
        ffn_width=8,
        max_positions=360,
        eos_id=2,
        pad_id=1,
    )
    return CaptionerConfig("test", EncoderConfig("any", embed_dim), mapper, decoder)


def weights_of(mapper: torch.nn.Module) -> dict[str, Floats]:
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in mapper.parameters():
            parameter.normal_(std=0.3)
    return {k: v.double().numpy() for k, v in mapper.state_dict().items()}


def layer_norm(x: Floats, weight: Floats, bias: Floats) -> Floats:
    centred = x - x.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    normed: Floats = centred / spread * weight + bias
    return normed


def transformer_by_hand(
    w: dict[str, Floats], embedding: Floats, config: MapperConfig, width: int
) -> Floats:
    """One embedding (E,) -> (prefix_length, width)."""
    unfolded = w["linear.weight"] @ embedding + w["linear.bias"]
    x = np.concatenate([unfolded.reshape(config.clip_length, width), w["prefix"]])
    size = width // config.heads
    for n in range(config.layers):
        p = {k.removeprefix(f"layers.{n}."): v for k, v in w.items() if f"layers.{n}." in k}
        normed = layer_norm(x, p["norm1.weight"], p["norm1.bias"])
        queries, both = normed @ p["q.weight"].T, normed @ p["kv.weight"].T
        keys, values = both[:, :width], both[:, width:]
        mixed = np.zeros_like(x)
        for head in range(config.heads):
            part = slice(head * size, (head + 1) * size)
            for place in range(len(x)):
                scores = keys[:, part] @ queries[place, part] / np.sqrt(size)
                share = np.exp(scores - scores.max())
                mixed[place, part] = (share / share.sum()) @ values[:, part]
        x = x + mixed @ p["out.weight"].T + p["out.bias"]
        normed = layer_norm(x, p["norm2.weight"], p["norm2.bias"])
        hidden = np.maximum(normed @ p["fc1.weight"].T + p["fc1.bias"], 0)
        x = x + hidden @ p["fc2.weight"].T + p["fc2.bias"]
    return x[config.clip_length :]


@pytest.mark.parametrize(("prefix_length", "clip_length"), [(5, 5), (4, 7), (6, 1)])
def test_transformer_mapper_is_the_arithmetic_by_hand(prefix_length: int, clip_length: int) -> None:
    shape = MapperConfig(
        "transformer", prefix_length, clip_length, layers=3, heads=4, mlp_ratio=1.5
    )
    mapper = build_mapper(config_of(shape, embed_dim=10, width=16))
    weights = weights_of(mapper)
    embeddings = np.random.default_rng(0).normal(size=(3, 10))
    with torch.no_grad():
        tokens = mapper.double()(torch.from_numpy(embeddings)).numpy()
    assert tokens.shape == (3, prefix_length, 16)
    wanted = [transformer_by_hand(weights, row, shape, 16) for row in embeddings]
    np.testing.assert_allclose(tokens, np.stack(wanted), rtol=1e-9, atol=1e-9)


def test_mlp_mapper_is_the_arithmetic_by_hand() -> None:
    mapper = build_mapper(config_of(MapperConfig("mlp", prefix_length=5), embed_dim=10, width=16))
    w = weights_of(mapper)
    assert w["fc1.weight"].shape == (5 * 16 // 2, 10)
    embeddings = np.random.default_rng(0).normal(size=(3, 10))
    hidden = np.tanh(embeddings @ w["fc1.weight"].T + w["fc1.bias"])
    wanted = (hidden @ w["fc2.weight"].T + w["fc2.bias"]).reshape(3, 5, 16)
    with torch.no_grad():
        tokens = mapper.double()(torch.from_numpy(embeddings)).numpy()
    np.testing.assert_allclose(tokens, wanted, rtol=1e-9, atol=1e-9)


def test_published_size() -> None:
    with torch.device("meta"):
        mapper = build_mapper(config_of(MapperConfig(), embed_dim=1024, width=2048))
    count = sum(parameter.numel() for parameter in mapper.parameters())
    assert round(count / 1e6, 1) == 352.6


def test_weights_have_their_documented_names() -> None:
    shape = MapperConfig(prefix_length=4, clip_length=3, layers=2, heads=4)
    state = build_mapper(config_of(shape, embed_dim=10, width=16)).state_dict()
    layer = {
        *(f"{part}.{kind}" for part in ("norm1", "norm2", "out", "fc1", "fc2") for kind in KINDS),
        "q.weight",
        "kv.weight",
    }
    wanted = {f"layers.{n}.{name}" for n in range(2) for name in layer}
    assert set(state) == wanted | {"linear.weight", "linear.bias", "prefix"}
    assert tuple(state["linear.weight"].shape) == (3 * 16, 10)
    assert tuple(state["layers.0.kv.weight"].shape) == (32, 16)
    mlp = build_mapper(config_of(MapperConfig("mlp", prefix_length=4), 10, 16))
    assert set(mlp.state_dict()) == {f"{part}.{kind}" for part in ("fc1", "fc2") for kind in KINDS}


def test_visual_tokens_start_at_the_scale_of_token_embeddings() -> None:
    torch.manual_seed(0)
    mapper = build_mapper(config_of(MapperConfig(layers=2), embed_dim=64, width=64))
    embeddings = torch.nn.functional.normalize(torch.randn(4, 64), dim=-1)
    with torch.no_grad():
        assert 0.01 < mapper(embeddings).std() < 0.1


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match=r"mapper\.heads"):
        config_of(MapperConfig(heads=7), embed_dim=10, width=16)
