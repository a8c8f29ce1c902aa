"""Ranges of the encoder's products against what torch's own layers read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from altogether_rt.errors import ConfigError
from altogether_rt.export.calibration.encoder_ranges import encoder_ranges
from altogether_rt.export.recipes import LoweringNames, find_recipe
from tests.tiny import IMAGE_SIZE, tiny_config, tiny_encoder_traced_once, tiny_model


def test_each_product_has_the_range_of_its_layer() -> None:
    config = tiny_config()
    encoder = tiny_model(config).encoder
    assert encoder is not None
    shape = (3, IMAGE_SIZE, IMAGE_SIZE, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    seen: dict[str, float] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            seen[name] = max(seen.get(name, 0.0), float(args[0].abs().max()))

        return hook

    for name, module in encoder.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(watch(name))
    with torch.no_grad():
        encoder(torch.from_numpy(pixels))
    with tiny_encoder_traced_once():
        found = encoder_ranges(config.encoder, encoder, pixels)
    assert all(name.startswith("encoder.") for name in found)
    assert sorted(found.values()) == pytest.approx(sorted(seen.values()), rel=1e-5)


def test_the_recipe_asks_for_it_with_static_scales_only() -> None:
    assert find_recipe("tensorrt-fp8").lowering.encoder
    assert not find_recipe("tensorrt-int8").lowering.encoder
    with pytest.raises(ConfigError, match=r"needs linear to be one of int8-static, fp8-static\.$"):
        LoweringNames("fp32", "fp32", "group-query", encoder=True)
