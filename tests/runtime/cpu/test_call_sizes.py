"""How much is computed at once, and that the parts are the whole."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from altogether_rt.config import named_config
from altogether_rt.runtime.cpu import call_sizes
from altogether_rt.runtime.cpu.call_sizes import (
    embeddings_per_call,
    images_per_call,
    tokens_per_call,
)
from altogether_rt.runtime.cpu.runtime import OnnxRuntime
from tests.runtime.conftest import BundleOf

MEGA = 1 << 20


def test_published_size() -> None:
    """The mapper has 80 positions of 4096 numbers, OPT-1.3B 8192 a token."""
    config = named_config("altogether-opt-1.3b")
    assert embeddings_per_call(config) == 12 * MEGA // (4 * 80 * 4096) == 9
    assert tokens_per_call(config) == 12 * MEGA // (4 * 8192) == 384


@pytest.mark.parametrize(
    ("model", "images"),
    [
        (None, 4),
        ({"vision_cfg": {"timm_model_name": "convnext_base"}}, 4),
        ({"vision_cfg": {"layers": 12, "width": 768, "patch_size": 32}}, 20),
        ({"vision_cfg": {"layers": 32, "width": 1280, "patch_size": 14}}, 2),
        ({"vision_cfg": {"layers": [3, 4, 6, 3], "width": 64}}, 3),
        ({"vision_cfg": {"layers": 2, "width": 4096, "patch_size": 4}}, 1),
    ],
)
def test_images_per_call(model: dict[str, object] | None, images: int) -> None:
    encoder = dataclasses.replace(named_config("altogether-opt-1.3b").encoder, model=model)
    assert images_per_call(encoder) == images


def test_a_wide_mlp_mapper_is_not_cut_to_pieces() -> None:
    """Its weights are read for every call, and its activations are a row an image."""
    assert embeddings_per_call(named_config("clipcap-mlp")) > 64


def test_parts_are_the_whole(bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundle_of("opt", "cpu-int8")
    size = bundle.config.encoder.image_size
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (5, size, size, 3), np.uint8)
    outputs = []
    for num_bytes in (1 << 40, 1):
        monkeypatch.setattr(call_sizes, "_BYTES", num_bytes)
        monkeypatch.setattr(call_sizes, "_UNKNOWN", 2)
        with OnnxRuntime(bundle, threads=1, num_slots=2) as runtime:
            assert runtime.prefill_tokens == max(
                1, num_bytes // (4 * bundle.config.decoder.ffn_width)
            )
            embeddings = runtime.encode(pixels)
            outputs.append((embeddings, runtime.map(embeddings)))
    assert outputs[0][0].shape == (5, bundle.config.encoder.embed_dim)
    for whole, parts in zip(*outputs, strict=True):
        np.testing.assert_array_equal(whole, parts)
