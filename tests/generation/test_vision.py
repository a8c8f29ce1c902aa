"""Encoder and mapper, a batch of requests at a time."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from altogether_rt.captions import CaptionRequest
from altogether_rt.generation.engine import EngineStats
from altogether_rt.generation.requests import RequestSource
from altogether_rt.generation.vision import VisionStage
from altogether_rt.runtime.base import Array, Runtime, join_arrays, mean_array
from altogether_rt.runtime.torch.device.arrays import ArrayContext, TorchArray
from altogether_rt.runtime.torch.device.runtime import DeviceTorchRuntime
from altogether_rt.runtime.torch.runtime import TorchRuntime
from tests.generation.fake_runtime import FakeRuntime
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


def quarters(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Four tiles of an image of twice the size."""
    size = IMAGE_SIZE
    return np.stack([pixels[y : y + size, x : x + size] for y in (0, size) for x in (0, size)])


@pytest.mark.parametrize("on_device", [False, True])
def test_tiles_are_not_waited_for(on_device: bool) -> None:
    """Their mean is computed where they are, and one image is encoded behind the other."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (3, 2 * IMAGE_SIZE, 2 * IMAGE_SIZE, 3), np.uint8)
    device, model = FakeDevice(), tiny_model(tiny_config())
    with device:
        runtime: Runtime = (
            DeviceTorchRuntime(model, device, num_slots=12, dtype=torch.float32)
            if on_device
            else TorchRuntime(model)
        )
        stage = VisionStage(runtime, EngineStats(), (12,), quarters)
        before = device.downloads
        mapped = stage.run([CaptionRequest(image, ()) for image in images])
        assert device.downloads == before
        for image, found in zip(images, mapped, strict=True):
            embeddings = np.asarray(runtime.encode(quarters(image)))
            np.testing.assert_allclose(
                found.pooled(), embeddings.mean(axis=0), rtol=1e-5, atol=1e-6
            )
            assert found.embedded.embedding.dtype == np.float32
            tokens = np.asarray(runtime.map(embeddings))
            wanted = tokens.reshape(-1, tokens.shape[-1])
            np.testing.assert_allclose(
                np.asarray(found.visual_tokens), wanted, rtol=1e-4, atol=1e-5
            )
            assert found.grid == (2, 2)


@pytest.mark.parametrize("tiled", [False, True])
def test_seconds_are_counted_where_they_are_spent(
    tiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a clock that stands still but for 3 seconds to encode, 5 to map and 7 to wait."""
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    class SlowRuntime(FakeRuntime):
        def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            nonlocal now
            now += 3
            return super().encode(pixels)

        def map(self, embeddings: Array) -> NDArray[np.float32]:
            nonlocal now
            now += 5
            return super().map(embeddings)

    class SlowSource(RequestSource):
        taken = 0

        def take(self, max_requests: int, wait: bool) -> list[CaptionRequest] | None:
            nonlocal now
            now += 7
            self.taken += 1
            image = np.zeros((2 * IMAGE_SIZE, 2 * IMAGE_SIZE, 3), np.uint8)
            return [CaptionRequest(image, ())] if self.taken == 1 else None

    stats = EngineStats()
    stage = VisionStage(SlowRuntime(4), stats, (4,), quarters if tiled else None)
    assert [len(batch) for batch in stage.batches(SlowSource(), lambda: True)] == [1]
    assert (stats.encode_s, stats.map_s, stats.decode_wait_s) == (3, 5, 14)


def test_the_mean_of_rows_from_several_places() -> None:
    """Patch tokens (N, P, E) that two streams computed, and some of the host."""
    values = np.random.default_rng(4).normal(size=(5, 3, 4)).astype(np.float32)
    device = FakeDevice()
    with device:
        context, streams = ArrayContext(device, device.stream()), [device.stream(), device.stream()]
        parts: list[Array] = [values[:1]]
        for stream, rows in zip(streams, (values[1:3], values[3:]), strict=True):
            with device.use(stream):
                tensor = torch.from_numpy(rows) + 0
                parts.append(TorchArray.computed(context, tensor, stream))
        mean = mean_array(join_arrays(parts))
        assert mean.shape == (4,)
        np.testing.assert_allclose(np.asarray(mean), values.mean(axis=(0, 1)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mean_array(values), values.mean(axis=(0, 1)))
