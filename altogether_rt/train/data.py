"""Training data: what a step sees depends on the seed and the step's number alone."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from altogether_rt.data.alt_files.lines import FileNotes
from altogether_rt.data.alts import read_records
from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.text import make_sample, make_scene
from altogether_rt.train.annotations import Example, load_annotated, read_example, read_name
from altogether_rt.train.recipe import DataRecipe

__all__ = [
    "Dataset",
    "Example",
    "FolderDataset",
    "OpenImage",
    "ScenesDataset",
    "Subset",
    "check_training_file",
    "example_order",
    "finetune_texts",
    "open_dataset",
    "pretrain_texts",
    "split_held_out",
]


#: Opens one image; it is sent to other processes, so it is a module's function or a partial of one.
OpenImage = Callable[[], Image.Image]


class Dataset(Protocol):
    """Images with texts. `__len__` counts images."""

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """Name of the image, which decides whether it is held out."""

    def stamp(self, index: int) -> str:
        """What is known of the image without reading it: another image has another stamp."""

    def image(self, index: int) -> OpenImage:
        """Opens the image. Calling it raises ImageError if it cannot be read."""

    def example(self, index: int, epoch: int) -> Example:
        """The image's texts; a generated dataset may give other texts in every epoch."""

    def texts_id(self, index: int) -> str:
        """What decides `example`, for a hash of the data."""


@dataclass(frozen=True)
class ScenesDataset:
    """Generated scenes: the images stay the same, every epoch has new texts."""

    num_scenes: int
    seed: int

    def __len__(self) -> int:
        return self.num_scenes

    def key(self, index: int) -> str:
        return f"scene {self.seed}/{index}"

    def stamp(self, index: int) -> str:
        return self.key(index)

    def image(self, index: int) -> OpenImage:
        return partial(_draw_scene, self.seed, index)

    def example(self, index: int, epoch: int) -> Example:
        sample = make_sample(self.seed, index, page=epoch)
        return Example(sample.alts, sample.caption, sample.visual_caption)

    def texts_id(self, index: int) -> str:
        return self.key(index)


def check_training_file(path: Path, images: Path | None) -> None:
    """Raises AltogetherError if there is no such file, or no such folder of images."""
    if not path.is_file():
        raise AltogetherError(f"there is no training file {path}.")
    if images is not None and not images.is_dir():
        raise AltogetherError(f"there is no folder of images {images}.")


class FolderDataset:
    """Images in a folder, with their texts in a file beside them or elsewhere.

    The file is JSON Lines, JSON or CSV, as `data.alts` reads it. A record has `file_name`, its
    alt-texts in `alt`, `alts` or `text`, and its caption: the last of `rounds`, the `round` with
    the highest number (`round3`), or `caption`.
    """

    def __init__(
        self,
        path: Path,
        say: Callable[[str], None] = lambda sentence: None,
        *,
        images: Path | None = None,
        round_number: int | None = None,
        skip_bad: bool = False,
    ) -> None:
        """Raises AltogetherError, which names the first bad lines, if a record cannot be used.

        say: told what else there is to say about the file. images: the folder, which file names
        must not leave; None: that of the file. round_number: learnt instead of the last, from 1.
        skip_bad: leave such records out.
        """
        check_training_file(path, images)
        self._folder = path.parent if images is None else images
        self._rows: list[tuple[str, Example]] = []
        problems = self.bad_lines = Problems()
        notes = FileNotes()
        try:
            for where, record in read_records(path, problems, notes):
                try:
                    name = read_name(record, inside=images is not None)
                    self._rows.append((name, read_example(record, round_number)))
                except ValueError as error:
                    problems.add(f"{where}: {error}")
        except OSError as error:
            raise AltogetherError(f"{path} cannot be read: {error.strerror}.") from error
        if problems and not skip_bad:
            raise AltogetherError(
                f"{_lines(problems)} of {path} cannot be trained on: {problems}: mend what is "
                "wrong, or leave it out with --skip-bad."
            )
        if not self._rows:
            reasons = f": {problems}" if problems else ""
            raise AltogetherError(f"{path} has no rows to train on{reasons}.")
        if problems:
            say(f"left out of {path}: {_lines(problems)}: {problems}.")
        for sentence in notes.sentences(path):
            say(sentence)

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, index: int) -> str:
        return self._rows[index][0]

    def stamp(self, index: int) -> str:
        path = os.path.abspath(self._folder / self.key(index))
        try:
            status = os.stat(path)
        except (OSError, ValueError):  # ValueError: no file can have that name
            return f"{path} absent"
        # The time of the last change of status moves with every write, and nobody can set it.
        times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
        _, example = self._rows[index]  # and whose image it must be, which may change by itself
        return f"{path} {status.st_ino} {status.st_size} {times} {example.image_hash}".rstrip()

    def image(self, index: int) -> OpenImage:
        name, example = self._rows[index]
        return partial(load_annotated, self._folder / name, example.image_hash)

    def example(self, index: int, epoch: int) -> Example:
        return self._rows[index][1]

    def texts_id(self, index: int) -> str:
        example = self.example(index, 0)
        return json.dumps([self.key(index), example.alts, example.caption])


def open_dataset(data: DataRecipe, say: Callable[[str], None], *, skip_bad: bool) -> Dataset:
    """The dataset that a recipe names. say and skip_bad: as `FolderDataset` takes them.

    Raises AltogetherError if its data cannot be read.
    """
    if data.source == "folder":
        return FolderDataset(
            Path(data.path),
            say,
            images=Path(data.images) if data.images else None,
            round_number=data.round_number,
            skip_bad=skip_bad,
        )
    return ScenesDataset(data.num_scenes, data.scenes_seed)


@dataclass(frozen=True)
class Subset:
    """Some examples of a dataset, in the order of `indices`."""

    dataset: Dataset
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def key(self, index: int) -> str:
        return self.dataset.key(self.indices[index])

    def stamp(self, index: int) -> str:
        return self.dataset.stamp(self.indices[index])

    def image(self, index: int) -> OpenImage:
        return self.dataset.image(self.indices[index])

    def example(self, index: int, epoch: int) -> Example:
        return self.dataset.example(self.indices[index], epoch)

    def texts_id(self, index: int) -> str:
        return self.dataset.texts_id(self.indices[index])


def split_held_out(dataset: Dataset, share: float) -> tuple[list[int], list[int]]:
    """Indices to train on, and those held out: about `share` of all, at least one unless it is 0.

    A hash of the image's key decides, so an image stays on its side when others come and go, and
    all rows of one image are on the same side. Raises AltogetherError if too few are left.
    """
    if not share:
        return list(range(len(dataset))), []
    draws = [_draw(dataset.key(index)) for index in range(len(dataset))]
    limit = max(share, min(draws))  # of few images, the one with the lowest draw
    held_out = [index for index, draw in enumerate(draws) if draw <= limit]
    rest = [index for index, draw in enumerate(draws) if draw > limit]
    if not rest:
        raise AltogetherError(
            f"holding out {share:g} of {len(dataset):,} images leaves none to train on: lower "
            "--holdout."
        )
    return rest, held_out


def _draw(key: str) -> float:
    """A number in [0, 1) that depends on `key` alone."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return float(int.from_bytes(digest) >> 11) / (1 << 53)


def _draw_scene(seed: int, index: int) -> Image.Image:
    return render(make_scene(seed, index))


def _lines(problems: Problems) -> str:
    return "1 line" if problems.count == 1 else f"{problems.count:,} lines"


def example_order(seed: int, num_examples: int, first: int, count: int) -> list[tuple[int, int]]:
    """Elements `first` to `first + count - 1` of an endless shuffled order, as (epoch, index)."""
    pairs: list[tuple[int, int]] = []
    while len(pairs) < count:
        epoch, offset = divmod(first + len(pairs), num_examples)
        order = np.random.default_rng([seed, epoch]).permutation(num_examples)
        taken = order[offset : offset + count - len(pairs)]
        pairs += [(epoch, int(index)) for index in taken]
    return pairs


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
