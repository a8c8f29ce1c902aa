"""Outliers behind the norms of a CLIP tower cost int8 less once they are moved into weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from altogether_rt.export.calibration.observe import observe
from altogether_rt.export.calibration.smooth_encoder import smooth_encoder
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.model.encoder import Encoder, build_encoder
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
        if name.endswith(("ln_1", "ln_2")):
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
