"""Outliers behind the norms of a CLIP tower cost int8 less once they are moved into weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from altogether_rt.config import VitConfig
from altogether_rt.export.calibration.observe import observe
from altogether_rt.export.calibration.smooth_encoder import smooth_encoder
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.model.encoder import Encoder, build_encoder
from altogether_rt.model.vit import VitBlock
from altogether_rt.runtime.torch.runtime import TorchRuntime
from tests.export.test_encoder import export, run
from tests.tiny import tiny_config

VIT = {"image_size": 16, "layers": 3, "width": 64, "head_width": 16, "patch_size": 8}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 4, "head_width": 16}
TEXT = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}


def _encoder(vision: dict[str, Any]) -> Encoder:
    torch.manual_seed(0)
    model = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": TEXT}
    config = replace(
        tiny_config("opt").encoder, name="tower", model=model, image_size=vision["image_size"]
    )
    return build_encoder(config).eval()


def _with_outliers(encoder: Encoder) -> Encoder:
    rng = np.random.default_rng(3)
    for name, module in encoder.named_modules():
        if name.endswith(("ln_1", "ln_2", "norm1", "norm2")):
            where = torch.from_numpy(rng.choice(len(module.weight), 2, replace=False))
            with torch.no_grad():
                module.weight[where] *= 30
                module.bias[where] += 1
    return encoder


def _pixels(size: int, num: int = 6) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (num, size, size, 3), dtype=np.uint8)


def _norms(encoder: Encoder) -> dict[str, NDArray[np.float32]]:
    config = replace(tiny_config("opt"), encoder=encoder.config)
    with TorchRuntime(CaptionerModel(config, encoder)) as reference:
        with observe(reference) as calibration:
            reference.encode(_pixels(encoder.config.image_size))
        return calibration.norms


def _embed(encoder: Encoder, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.no_grad():
        found: NDArray[np.float32] = encoder(torch.from_numpy(pixels)).numpy()
        return found


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    dots = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(dots.mean())


def _tower() -> Encoder:
    torch.manual_seed(0)
    vit = VitConfig(width=64, layers=3, heads=4, ffn_width=128, patch_size=8)
    config = replace(
        tiny_config("opt").encoder, vit=vit, embed_dim=64, image_size=16, normalize=False
    )
    return build_encoder(config).eval()


def test_a_tower_of_patch_tokens_computes_the_same() -> None:
    encoder = _with_outliers(_tower())
    smoothed = copy.deepcopy(encoder)
    before = {
        name: (block.norm1.weight.abs().max() / block.norm1.weight.abs().median()).item()
        for name, block in encoder.visual.named_modules()
        if isinstance(block, VitBlock)
    }
    norms = {
        f"{name}.{part}": _seen(getattr(block, part), encoder)
        for name, block in encoder.named_modules()
        if isinstance(block, VitBlock)
        for part in ("norm1", "norm2")
    }
    smooth_encoder(smoothed, norms, 0.75)
    pixels = _pixels(16, 9)
    np.testing.assert_allclose(_embed(smoothed, pixels), _embed(encoder, pixels), atol=1e-4)
    assert len(before) == 3
    for name, ratio in before.items():
        block = smoothed.visual.get_submodule(name)
        assert isinstance(block, VitBlock)
        weight = block.norm1.weight.abs()
        assert (weight.max() / weight.median()).item() < 0.4 * ratio


def _seen(norm: torch.nn.Module, encoder: Encoder) -> NDArray[np.float32]:
    """Largest absolute output of a norm over some pixels, (channels,)."""
    found = []
    hook = norm.register_forward_hook(lambda module, args, output: found.append(output))
    _embed(encoder, _pixels(encoder.config.image_size))
    hook.remove()
    largest: NDArray[np.float32] = found[0].abs().amax(dim=(0, 1)).numpy()
    return largest


def test_it_computes_the_same_with_smaller_outliers() -> None:
    encoder = _with_outliers(_encoder(VIT))
    smoothed = copy.deepcopy(encoder)
    before = _norms(encoder)
    smooth_encoder(smoothed, before, 0.75)
    after = _norms(smoothed)
    pixels = _pixels(16, 9)
    np.testing.assert_allclose(_embed(smoothed, pixels), _embed(encoder, pixels), atol=2e-5)
    blocks = [name for name in before if name.endswith(("ln_1", "ln_2"))]
    assert len(blocks) == 6
    for name in blocks:
        ratio = [seen[name].max() / np.median(seen[name]) for seen in (before, after)]
        assert ratio[1] < 0.4 * ratio[0]
    for name in before.keys() - set(blocks):
        np.testing.assert_allclose(after[name], before[name], rtol=1e-4)


def test_int8_loses_less(tmp_path: Path) -> None:
    encoder = _with_outliers(_encoder(VIT))
    pixels = _pixels(16, 32)
    reference = _embed(encoder, pixels)
    lost = []
    for name, amount in (("plain", 0.0), ("smooth", 0.75)):
        if amount:
            smooth_encoder(encoder, _norms(encoder), amount)
        (tmp_path / name).mkdir()
        path = export(encoder, encoder.config, "cpu-int8", tmp_path / name)
        lost.append(1 - _cosine(run(path, pixels), reference))
    assert lost[1] < 0.5 * lost[0]


def test_a_resnet_is_left_alone() -> None:
    encoder = _encoder(RESNET)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    smooth_encoder(encoder, _norms(encoder), 0.75)
    assert all(torch.equal(before[name], t) for name, t in encoder.state_dict().items())
