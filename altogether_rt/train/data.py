"""Training data: what a step sees depends on the seed and the step's number alone."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from altogether_rt.artifacts.files import NewFile
from altogether_rt.config import EncoderConfig
from altogether_rt.data.alt_files.lines import FileNotes
from altogether_rt.data.alts import alt_texts, image_name, read_records
from altogether_rt.data.images import load_image
from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.machine.limits import available_cores
from altogether_rt.preprocess import Preprocessor
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.text import make_sample, make_scene

__all__ = ["Dataset", "Example", "FolderDataset", "ScenesDataset", "example_order", "load_pixels"]


@dataclass(frozen=True)
class Example:
    """The texts of one image."""

    alts: tuple[str, ...]
    caption: str  # the last annotation round
    #: What an annotator without the alt-text would write; None: unknown, `caption` is used instead.
    caption_without_alt: str | None = None


class Dataset(Protocol):
    """Images with texts. `__len__` counts images."""

    def __len__(self) -> int: ...

    def pixels(self, index: int, preprocessor: Preprocessor) -> NDArray[np.uint8]:
        """The image as the encoder takes it, uint8 (size, size, 3)."""

    def example(self, index: int, epoch: int) -> Example:
        """The image's texts; a generated dataset may give other texts in every epoch."""

    def identity(self) -> str:
        """A hash of what `pixels` depends on, part of a cache file's name."""


@dataclass(frozen=True)
class ScenesDataset:
    """Generated scenes: the images stay the same, every epoch has new texts."""

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
    """Images in a folder, with their texts in a file beside them.

    The file is JSON Lines, JSON or CSV, as `data.alts` reads it. A record has `file_name`, its
    alt-texts in `alt`, `alts` or `text`, and its caption: the last of `rounds`, or `caption`.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = lambda sentence: None) -> None:
        """Raises AltogetherError, which names the first bad lines, if a record cannot be used.

        say: told what else there is to say about the file.
        """
        if not path.is_file():
            raise AltogetherError(f"there is no training file {path}.")
        self._rows: list[tuple[Path, Example]] = []
        problems = Problems()
        notes = FileNotes()
        try:
            for where, record in read_records(path, problems, notes):
                try:
                    self._rows.append((path.parent / _file_name(record), _example(record)))
                except ValueError as error:
                    problems.add(f"{where}: {error}")
        except OSError as error:
            raise AltogetherError(f"{path} cannot be read: {error.strerror}.") from error
        if problems:
            raise AltogetherError(f"{path} cannot be trained on: {problems}.")
        if not self._rows:
            raise AltogetherError(f"{path} has no rows to train on.")
        for sentence in notes.sentences(path):
            say(sentence)

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


def _file_name(record: Mapping[Any, Any]) -> str:
    name = image_name(record)
    if name is None:
        raise ValueError("no file_name")
    return name


def _example(record: Mapping[Any, Any]) -> Example:
    """Raises ValueError for a record whose alt-texts or caption are not text."""
    alts = alt_texts(record) or ()
    rounds = record.get("rounds")
    caption = rounds[-1] if isinstance(rounds, list) and rounds else record.get("caption")
    if not isinstance(caption, str):
        raise ValueError("no text in rounds or caption")
    return Example(alts, caption)


def example_order(seed: int, num_examples: int, first: int, count: int) -> list[tuple[int, int]]:
    """Elements `first` to `first + count - 1` of an endless shuffled order, as (epoch, index)."""
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
    """All images as the encoder takes them, uint8 (N, size, size, 3), mapped from a cache file."""
    size, count = encoder.image_size, len(dataset)
    key = f"{dataset.identity()}-{count}-{size}-{encoder.resize}-{encoder.interpolation}"
    path = cache / f"pixels-{key}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        shape = (count, size, size, 3)
        read = partial(dataset.pixels, preprocessor=Preprocessor(encoder))
        with (
            NewFile(path) as new,
            multiprocessing.get_context("spawn").Pool(available_cores()) as pool,
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
    """Condition and target of pretraining: another alt-text or none, and the longest one.

    An image with one alt-text has no condition. A dataset with new alt-texts in every epoch gives
    those of two epochs, so that each image has several.
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
    """Condition and target of fine-tuning: all alt-texts or none, and the last round."""
    example = dataset.example(index, epoch)
    if rng.random() < alt_dropout:
        return (), example.caption_without_alt or example.caption
    return example.alts, example.caption
