"""Encoder and mapper, a batch of requests at a time."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from altogether_rt.captions import CaptionRequest
from altogether_rt.generation.engine import EngineStats
from altogether_rt.generation.vision import VisionStage
from altogether_rt.runtime.base import Runtime
from altogether_rt.runtime.torch.device.runtime import DeviceTorchRuntime
from altogether_rt.runtime.torch.runtime import TorchRuntime
from tests.runtime.torch.device.fake_device import FakeDevice
from tests.tiny import IMAGE_SIZE, tiny_config, tiny_model


@pytest.mark.parametrize("on_device", [False, True])
def test_a_large_batch_is_encoded_in_parts(
    on_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes of each image is what comes of it alone."""
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (150, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    images[149] = images[3]  # twice the same
    device, model = FakeDevice(), tiny_model(tiny_config())
    with device:
        runtime: Runtime = (
            DeviceTorchRuntime(model, device, num_slots=150) if on_device else TorchRuntime(model)
        )
        sizes, encode = [], runtime.encode

        def counted(pixels: NDArray[np.uint8]) -> object:
            sizes.append(len(pixels))
            return encode(pixels)

        monkeypatch.setattr(runtime, "encode", counted)
        stage = VisionStage(runtime, EngineStats(), (12,))
        mapped = stage.run([CaptionRequest(image, ()) for image in images])
        assert sizes == [64, 64, 21]
        embeddings = np.stack([np.asarray(each.embedding) for each in mapped])
        alone = np.concatenate([np.asarray(encode(image[None])) for image in images])
        tokens = np.asarray(mapped[70].visual_tokens)
        wanted = np.asarray(runtime.map(encode(images[70:71])))[0]
    np.testing.assert_allclose(embeddings, alone, rtol=1e-2, atol=1e-2)
    np.testing.assert_array_equal(embeddings[149], embeddings[3])
    np.testing.assert_allclose(tokens, wanted, rtol=2e-2, atol=2e-2)
