"""Encoders of open_clip, exported: a ViT, and a ResNet for its convolutions and its pooling."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import altogether_rt.export.encoder as encoder_module
from altogether_rt.config import EncoderConfig
from altogether_rt.export.encoder import build_encoder as export_encoder
from altogether_rt.export.graph import GraphBuilder
from altogether_rt.export.lowering.choice import build_lowering
from altogether_rt.export.recipes import find_recipe
from altogether_rt.export.weights import WeightsFile
from altogether_rt.model.encoder import build_encoder
from altogether_rt.runtime.ort_session import open_session

TEXT = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
TOWERS: dict[str, dict[str, Any]] = {
    "vit": {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 64},
    "resnet": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64},
}


@pytest.fixture(autouse=True)
def _trace_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing takes seconds and does not depend on the target."""
    traced = functools.cache(encoder_module.trace_encoder)
    monkeypatch.setattr(encoder_module, "trace_encoder", traced)


def export(encoder: nn.Module, config: EncoderConfig, target: str, folder: Path) -> Path:
    with WeightsFile(folder / "weights.bin") as weights:
        g = GraphBuilder("encoder", weights)
        export_encoder(g, config, encoder, build_lowering(find_recipe(target).lowering))
    g.save(folder / "encoder.onnx")
    return folder / "encoder.onnx"


def run(path: Path, pixels: np.ndarray) -> np.ndarray:
    result: np.ndarray = open_session(path, threads=1).run(None, {"pixels": pixels})[0]
    return result


@pytest.mark.parametrize("tower", TOWERS)
def test_open_clip_towers(tower: str, tmp_path: Path) -> None:
    model = {"embed_dim": 32, "vision_cfg": TOWERS[tower], "text_cfg": TEXT, "quick_gelu": True}
    config = EncoderConfig(tower, 32, 64, model=model)
    torch.manual_seed(0)
    encoder = build_encoder(config)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    pixels[1] //= 4  # embeddings that differ
    with torch.no_grad():
        wanted = encoder(torch.from_numpy(pixels)).numpy()
    exact = run(export(encoder, config, "cpu-fp32", tmp_path), pixels)
    np.testing.assert_allclose(exact, wanted, atol=1e-5)
    single = run(tmp_path / "encoder.onnx", pixels[1:2])
    np.testing.assert_allclose(single, wanted[1:2], atol=1e-5)
    path = export(encoder, config, "cpu-int8", tmp_path)
    assert ((run(path, pixels) * wanted).sum(-1) > 0.998).all()
    kinds = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
    assert "MatMulIntegerToFloat" in kinds
    assert not {"MatMul", "Gemm"} & set(kinds)  # every constant product has become int8


class Odd(nn.Module):
    """Products that only look like linear layers, and constants of all kinds."""

    left: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("left", torch.randn(5, 48))
        self.scale = nn.Parameter(torch.tensor(0.5))  # a scalar must stay one
        self.linear = nn.Linear(48, 8)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = pixels.flatten(1).float() * self.scale / 255  # (N, 48)
        between = x @ self.left.T @ self.left / 48 + x * (x @ x.T).mean()
        return nn.functional.normalize(self.linear(between), dim=-1)


def test_other_products_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, config = Odd().eval(), EncoderConfig("odd", 8, 4)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    with torch.no_grad():
        wanted = module(torch.from_numpy(pixels)).numpy()
    found = run(export(module, config, "cpu-fp32", tmp_path), pixels)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    path = export(module, config, "cpu-int8", tmp_path)
    kinds = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 3
    assert kinds.count("MatMul") + kinds.count("Gemm") == 1  # the product of x with itself
