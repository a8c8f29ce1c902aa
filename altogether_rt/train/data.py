"""Training examples: what a step sees is a function of the seed and the step's number alone."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from altogether_rt.artifacts.files import NewFile
from altogether_rt.config import EncoderConfig
from altogether_rt.data.images import load_image
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.preprocess import Preprocessor
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.text import make_sample, make_scene

__all__ = ["Dataset", "Example", "FolderDataset", "ScenesDataset", "example_order", "load_pixels"]


@dataclass(frozen=True)
class Example:
    """One image's texts."""

    alts: tuple[str, ...]
    caption: str  # the last annotation round
    #: The caption of an annotator who had no alt-text, where it is known; else `caption` stands in.
    caption_without_alt: str | None = None


class Dataset(Protocol):
    """Images with texts. `__len__` counts images."""

    def __len__(self) -> int: ...

    def pixels(self, index: int, preprocessor: Preprocessor) -> NDArray[np.uint8]:
        """The image as the encoder sees it."""

    def example(self, index: int, epoch: int) -> Example:
        """The image's texts; a generated data set may tell other ones every epoch."""

    def identity(self) -> str:
        """A hash of what `pixels` depends on, for caches."""


@dataclass(frozen=True)
class ScenesDataset:
    """Scenes made as they are asked for: the pictures stay, every epoch writes new texts."""

    num_scenes: int
    seed: int

    def __len__(self) -> int:
        return self.num_scenes

    def pixels(self, index: int, preprocessor: Preprocessor) -> NDArray[np.uint8]:
        return preprocessor.pixels(render(make_scene(self.seed, index)))

    def example(self, index: int, epoch: int) -> Example:
        sample = make_sample(self.seed, index, page=epoch)
        return Example(sample.alts, sample.caption, sample.visual_caption)

    def identity(self) -> str:
        return f"scenes-{self.seed}"


class FolderDataset:
    """A jsonl file of `file_name`, `alt` or `alts`, and `rounds` or `caption`; images beside it."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise AltogetherError(f"there is no training file {path}.")
        self._root = path.parent
        self._rows: list[tuple[Path, Example]] = []
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            if line.strip():
                self._rows.append(self._parse(line, f"{path}, line {number}"))
        if not self._rows:
            raise AltogetherError(f"{path} has no rows to train on.")

    def _parse(self, line: str, where: str) -> tuple[Path, Example]:
        try:
            row = json.loads(line)
            alts = row.get("alts", row.get("alt", []))
            alts = (alts,) if isinstance(alts, str) else tuple(alts)
            caption = row["rounds"][-1] if row.get("rounds") else row["caption"]
            example = Example(tuple(map(str, alts)), str(caption))
            return self._root / row["file_name"], example
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AltogetherError(
                f"{where}: a row needs file_name and rounds or caption ({error})."
            ) from error

    def __len__(self) -> int:
        return len(self._rows)

    def pixels(self, index: int, preprocessor: Preprocessor) -> NDArray[np.uint8]:
        path = self._rows[index][0]
        try:
            return preprocessor.pixels(load_image(path))
        except ImageError as error:
            raise AltogetherError(f"{path} cannot be trained on: {error}") from error

    def example(self, index: int, epoch: int) -> Example:
        return self._rows[index][1]

    def identity(self) -> str:
        paths = "\n".join(
            f"{path.name} {path.stat().st_size if path.exists() else 0}" for path, _ in self._rows
        )
        return hashlib.sha256(paths.encode("utf-8", "replace")).hexdigest()[:16]


def example_order(seed: int, num_examples: int, first: int, count: int) -> list[tuple[int, int]]:
    """Places `first … first + count - 1` of an endless shuffled walk: (epoch, index) pairs."""
    pairs: list[tuple[int, int]] = []
    while len(pairs) < count:
        epoch, offset = divmod(first + len(pairs), num_examples)
        order = np.random.default_rng([seed, epoch]).permutation(num_examples)
        taken = order[offset : offset + count - len(pairs)]
        pairs += [(epoch, int(index)) for index in taken]
    return pairs


def load_pixels(
    dataset: Dataset, encoder: EncoderConfig, cache: Path, say: Callable[[str], None]
) -> NDArray[np.uint8]:
    """All images as the encoder sees them, (N, size, size, 3), memory-mapped from a cache file."""
    size, count = encoder.image_size, len(dataset)
    key = f"{dataset.identity()}-{count}-{size}-{encoder.resize}-{encoder.interpolation}"
    path = cache / f"pixels-{key}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        shape = (count, size, size, 3)
        read = partial(dataset.pixels, preprocessor=Preprocessor(encoder))
        with (
            NewFile(path) as new,
            multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool,
        ):
            pixels = np.lib.format.open_memmap(new.path, "w+", np.uint8, shape)
            for index, image in enumerate(pool.imap(read, range(count), chunksize=64)):
                pixels[index] = image
                if (index + 1) % 20000 == 0:
                    say(f"prepared {index + 1} of {count} images")
            pixels.flush()
            new.commit()
    loaded: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return loaded


def pretrain_texts(
    dataset: Dataset, index: int, epoch: int, rng: random.Random, alt_dropout: float
) -> tuple[Sequence[str], str]:
    """Condition and target of the first stage: the longest alt-text, and another or none.

    An image with one alt-text is told by it alone. A data set that writes new alt-texts every
    epoch has several of each image: those of two epochs.
    """
    alts = dict.fromkeys(dataset.example(index, epoch).alts)
    alts |= dict.fromkeys(dataset.example(index, epoch + 1).alts)
    known = [alt for alt in alts if alt.strip()]
    if not known:
        return (), ""
    target = max(known, key=len)
    others = [alt for alt in known if alt != target]
    condition = (rng.choice(others),) if others and rng.random() >= alt_dropout else ()
    return condition, target


def finetune_texts(
    dataset: Dataset, index: int, epoch: int, rng: random.Random, alt_dropout: float
) -> tuple[Sequence[str], str]:
    """Condition and target of the second stage: the last round, and the alt-texts or none."""
    example = dataset.example(index, epoch)
    if rng.random() < alt_dropout:
        return (), example.caption_without_alt or example.caption
    return example.alts, example.caption
