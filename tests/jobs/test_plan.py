"""How a sample becomes a request: its image or its embedding, and what is wrong with it."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from altogether_rt.captions import CaptionParams, EmbeddedImage
from altogether_rt.data.alts import Alts
from altogether_rt.data.embeddings import EncoderStamp
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.sinks.embeddings import EmbeddingSink
from altogether_rt.data.sources.base import Sample
from altogether_rt.errors import ImageError
from altogether_rt.generation.engine import EngineStats
from altogether_rt.jobs.plan import CaptionPlan, EmbeddingFile, Task
from altogether_rt.jobs.samples import caption_samples
from tests.fake_captioner import FakeCaptioner

pytestmark = pytest.mark.lean

PLAN = CaptionPlan(CaptionParams(8, 0.0, 1.0), ImageLimits(max_pixels=1000))
STAMP = EncoderStamp("0123456789ab", 2)


def task(image: Path | bytes | ImageError, key: str = "a.png") -> Task:
    return Task(0, Sample(key, Alts(("x",)), image))


def test_an_image_that_does_not_fit_into_memory_is_an_error_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (9, 9)).save(path)

    def pixels(image: Image.Image) -> Any:
        raise MemoryError

    captioner: Any = SimpleNamespace(preprocessor=SimpleNamespace(size=8, pixels=pixels))
    with pytest.raises(ImageError, match=r"^a\.png does not fit into memory\.$") as caught:
        PLAN.reader(captioner)(task(path))
    assert caught.value.kind == "too_large"
    assert caught.value.image_hash == hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def test_a_sample_without_an_image_says_so_from_embeddings_too(tmp_path: Path) -> None:
    path = tmp_path / "e.npy"
    saved = EmbeddedImage(bytes(16), np.ones(2, np.float32))
    with EmbeddingSink(path, STAMP) as sink:
        sink.write("a.png", saved)
        sink.finish()
    plan = dataclasses.replace(PLAN, embeddings=EmbeddingFile(path, STAMP))
    for each in (PLAN, plan):
        with pytest.raises(ImageError, match="it has none"):
            each.reader(FakeCaptioner())(task(ImageError("missing", "it has none")))
    request = plan.reader(FakeCaptioner())(task(tmp_path / "absent.png"))
    assert request.embedded is not None
    assert request.embedded.content == saved.content
    assert request.alts == ("x",)


@pytest.mark.parametrize(
    ("memory_bytes", "processes", "pixels"),
    [
        (None, 1, 1000),
        (1 << 30, 1, 1000),  # the limit of an image comes first
        (32_000, 1, 500),  # a quarter of it for pixels of 16 bytes
        (32_000, 2, 250),
        (63, 1, 1),  # an image is decoded, however little there is
    ],
)
def test_pixels_decoded_at_once_follow_the_memory(
    memory_bytes: int | None, processes: int, pixels: int
) -> None:
    plan = dataclasses.replace(PLAN, num_processes=processes)
    assert plan._pixels_at_once(memory_bytes) == pixels


def test_without_a_sample_the_executor_is_not_used() -> None:
    executor: Any = None  # whatever it is asked for is an error
    stats = caption_samples([], executor, PLAN, lambda key, alts, answer: None)
    assert stats == EngineStats()
