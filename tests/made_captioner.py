"""A captioner over a runtime that stands in for a model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from altogether_rt.captioner import Captioner
from altogether_rt.config import CaptionerConfig, DecoderConfig, EncoderConfig, MapperConfig
from altogether_rt.opening import CaptionerParts
from altogether_rt.preprocess.prompts import PromptTokenizer
from tests.generation.fake_runtime import EOS, VOCAB, FakeRuntime

__all__ = ["CONFIG", "made_captioner", "made_images"]

CONFIG = CaptionerConfig(
    name="fake",
    encoder=EncoderConfig("fake", embed_dim=4, image_size=8),
    mapper=MapperConfig(prefix_length=3, clip_length=3, layers=1, heads=1),
    decoder=DecoderConfig(VOCAB, 1, 2, 1, 2, max_positions=256, eos_id=EOS, pad_id=1),
)


def made_captioner(num_slots: int = 4, runtime: FakeRuntime | None = None) -> Captioner:
    """Its captions are a function of the image and the alt-texts. runtime: instead of a new one."""
    letters = {chr(ord("0") + i): i for i in range(VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    prompts = PromptTokenizer(tokenizer, CONFIG.prompt, pad_id=1)
    runtime = runtime or FakeRuntime(num_slots, capacity=400)
    return Captioner(CaptionerParts(CONFIG, runtime, prompts, "fake-id", None))


def made_images(num: int) -> list[NDArray[np.uint8]]:
    """Pixels of 8 x 8 images, all different."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (8, 8, 3), dtype=np.uint8) for _ in range(num)]
