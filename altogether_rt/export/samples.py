"""Real inputs for calibration and the parity check: images, and prompts as the captioner has them.

Decoders have outliers that depend on what they read (the first token, names, digits), so the
alt-texts are such as people write, also where the images are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from altogether_rt.config import CaptionerConfig
from altogether_rt.data.alts import read_alts
from altogether_rt.data.images import load_image
from altogether_rt.data.sniff import has_image_suffix
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.preprocess.pixels import Preprocessor
from altogether_rt.preprocess.prompts import PromptTokenizer

__all__ = ["Samples", "draw_samples", "read_samples"]

#: Images, and prompts: each image serves for several.
NUM_IMAGES, NUM_PROMPTS = 8, 24
SEED = 20241022


@dataclass(frozen=True)
class Samples:
    """Images and the text part of prompts; prompt n belongs to image n modulo the images."""

    pixels: NDArray[np.uint8]  # (I, H, W, 3)
    prompt_ids: tuple[tuple[int, ...], ...]  # N, at least I
    origin: str  # where the images come from; recorded in the manifest
    before_ids: tuple[int, ...] = ()  # tokens of every prompt before the visual ones
    alt_ids: tuple[tuple[int, ...], ...] = ()  # of each prompt, its alt-text

    def of_prompts(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """(I, …) of images -> (N, …) of prompts."""
        return rows[np.arange(len(self.prompt_ids)) % len(rows)]

    def first(self, count: int) -> Samples:
        """The first prompts with their images."""
        return replace(
            self,
            pixels=self.pixels[:count],
            prompt_ids=self.prompt_ids[:count],
            alt_ids=self.alt_ids[:count],
        )

    def targets(self) -> NDArray[np.int64]:
        """What follows the last visual token and each text token of the prompts, packed: the id of
        a token of an alt-text, or -1."""
        targets: list[int] = []
        for index, ids in enumerate(self.prompt_ids):
            alt = self.alt_ids[index] if self.alt_ids else ids
            row = [-1] * (len(ids) + 1)
            start = next((i for i in range(len(ids)) if ids[i : i + len(alt)] == alt), 0)
            row[start : start + len(alt)] = alt
            targets += row
        return np.array(targets, np.int64)


def draw_samples(config: CaptionerConfig, tokenizer: PromptTokenizer) -> Samples:
    """Drawn scenes, with their own alt-texts and with such as people write."""
    from altogether_rt.scenes.draw import render
    from altogether_rt.scenes.text import make_sample

    scenes = [make_sample(SEED, index, "test") for index in range(NUM_IMAGES)]
    preprocessor = Preprocessor(config.encoder)
    pixels = [preprocessor.pixels(render(scene.scene)) for scene in scenes]
    alts = [scene.alts for scene in scenes]
    return _samples(config, tokenizer, pixels, [*alts, *_written_alts()], "scenes")


def read_samples(
    folder: Path, config: CaptionerConfig, tokenizer: PromptTokenizer, alts: Path | None = None
) -> Samples:
    """The first readable images of a folder by name.

    alts: a file of alt-texts, as `caption` takes it; the alt-texts of other images than the first
    serve too. None: a file's name is its alt-text, and texts such as people write are added. Raises
    AltogetherError if there is no such folder, none of its images can be read, or none of the
    alt-texts is for an image that can.
    """
    if not folder.is_dir():
        raise AltogetherError(f"there is no folder {folder}: give a folder of images.")
    table = None if alts is None else read_alts(alts)
    preprocessor = Preprocessor(config.encoder)
    pixels: list[NDArray[np.uint8]] = []
    texts: list[tuple[str, ...]] = []
    others: list[tuple[str, ...]] = []
    for path in sorted(folder.iterdir()):
        if not has_image_suffix(path.name):
            continue
        own = (path.stem.replace("_", " "),) if table is None else table.get(path.name).texts
        if table is not None and not any(own):
            continue
        if len(pixels) == NUM_IMAGES:
            others.append(own)
            if table is None or len(texts) + len(others) == NUM_PROMPTS:
                break
            continue
        try:
            pixels.append(preprocessor.pixels(load_image(path)))
        except ImageError:
            continue
        texts.append(own)
    if not pixels:
        with_alts = "" if alts is None else f" with an alt-text in {alts}"
        raise AltogetherError(
            f"none of the files in {folder} is a readable image{with_alts}: give a folder of "
            "images."
        )
    rest = _written_alts() if table is None else others
    return _samples(config, tokenizer, pixels, [*texts, *rest], "images given")


def _written_alts() -> list[tuple[str, ...]]:
    file = resources.files("altogether_rt.export.calibration").joinpath("alts.txt")
    return [(line,) for line in file.read_text("utf-8").splitlines()]


def _samples(
    config: CaptionerConfig,
    tokenizer: PromptTokenizer,
    pixels: list[NDArray[np.uint8]],
    alts: Sequence[tuple[str, ...]],
    origin: str,
) -> Samples:
    # A captioner that reads no alt-texts has one prompt for each image.
    count = NUM_PROMPTS if config.prompt.use_alt else len(pixels)
    prompts = [tokenizer.prompt(row) for row in alts[:count]]
    # The tokenizer's vocabulary may be larger than the model's.
    assert all(token < config.decoder.vocab_size for p in prompts for token in p.ids)
    return Samples(
        np.stack(pixels),
        tuple(p.ids for p in prompts),
        origin,
        before_ids=config.prompt.before_ids,
        alt_ids=tuple(p.alt_ids for p in prompts),
    )
