"""Real inputs for calibration and the parity check: images and their prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from altogether_rt.config import CaptionerConfig
from altogether_rt.data.images import load_image
from altogether_rt.data.sniff import has_image_suffix
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.preprocess import Preprocessor, PromptTokenizer

__all__ = ["Samples", "draw_samples", "read_samples"]

NUM_SAMPLES = 8
SEED = 20241022


@dataclass(frozen=True)
class Samples:
    """Images and the text part of their prompts, one row for each image."""

    pixels: NDArray[np.uint8]  # (N, H, W, 3)
    prompt_ids: tuple[tuple[int, ...], ...]
    origin: str  # where the images come from; recorded in the manifest
    before_ids: tuple[int, ...] = ()  # tokens of every prompt before the visual ones


def draw_samples(config: CaptionerConfig, tokenizer: PromptTokenizer) -> Samples:
    """Drawn scenes with their alt-texts."""
    from altogether_rt.scenes.draw import render
    from altogether_rt.scenes.text import make_sample

    scenes = [make_sample(SEED, index, "test") for index in range(NUM_SAMPLES)]
    preprocessor = Preprocessor(config.encoder)
    pixels = [preprocessor.pixels(render(scene.scene)) for scene in scenes]
    return _samples(config, tokenizer, pixels, [scene.alts for scene in scenes], "scenes")


def read_samples(folder: Path, config: CaptionerConfig, tokenizer: PromptTokenizer) -> Samples:
    """The first readable images of a folder by name; a file's name serves as its alt-text.

    Raises AltogetherError if there is no such folder or none of its images can be read.
    """
    if not folder.is_dir():
        raise AltogetherError(f"there is no folder {folder}: give a folder of images.")
    preprocessor = Preprocessor(config.encoder)
    pixels: list[NDArray[np.uint8]] = []
    alts: list[tuple[str, ...]] = []
    for path in sorted(folder.iterdir()):
        if not has_image_suffix(path.name):
            continue
        try:
            pixels.append(preprocessor.pixels(load_image(path)))
        except ImageError:
            continue
        alts.append((path.stem.replace("_", " "),))
        if len(pixels) == NUM_SAMPLES:
            break
    if not pixels:
        raise AltogetherError(
            f"none of the files in {folder} is a readable image: give a folder of images."
        )
    return _samples(config, tokenizer, pixels, alts, "images given")


def _samples(
    config: CaptionerConfig,
    tokenizer: PromptTokenizer,
    pixels: list[NDArray[np.uint8]],
    alts: list[tuple[str, ...]],
    origin: str,
) -> Samples:
    prompts = tuple(tokenizer.prompt(row).ids for row in alts)
    # The tokenizer's vocabulary may be larger than the model's.
    assert all(token < config.decoder.vocab_size for ids in prompts for token in ids)
    return Samples(np.stack(pixels), prompts, origin, config.prompt.before_ids)
