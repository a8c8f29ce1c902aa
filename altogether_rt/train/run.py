"""A whole training run: data, tokenizer, encoder, the training stages in order, the checkpoint."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from altogether_rt.artifacts.checkpoint import Checkpoint, save_checkpoint
from altogether_rt.artifacts.files import new_file
from altogether_rt.config import CaptionerConfig, load_config
from altogether_rt.errors import AltogetherError, ConfigError
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.model.encoder import Encoder, build_clip, build_encoder
from altogether_rt.preprocess import PromptTokenizer
from altogether_rt.train.captioning import CaptioningObjective
from altogether_rt.train.contrastive import ContrastiveObjective
from altogether_rt.train.data import Dataset, FolderDataset, ScenesDataset, load_pixels
from altogether_rt.train.log import TrainLog
from altogether_rt.train.loop import Objective, minimize
from altogether_rt.train.recipe import TrainRecipe
from altogether_rt.train.tokenizer import train_tokenizer

__all__ = ["train"]

_EMBEDDING_BATCH = 128

Say = Callable[[str], None]


def train(
    recipe: TrainRecipe,
    out: Path,
    *,
    init: Path | None = None,
    data: Path | None = None,
    resume: bool = False,
    threads: int | None = None,
    say: Say = print,
) -> None:
    """Run a recipe and write the checkpoint `out`; its state and logs go to `<out>.training`.

    init: a checkpoint to start from, instead of random weights and the encoder that the recipe's
    configuration names. data: a JSON Lines file instead of the recipe's data. resume: continue the
    run in `<out>.training`. threads: of torch; None: its default. say: gets progress lines.
    Raises AltogetherError if `out` exists, a run cannot be resumed, or the data cannot be read.
    """
    folder = out.with_name(out.name + ".training")
    _check_folders(out, folder, resume)
    folder.mkdir(parents=True, exist_ok=True)
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    start = Checkpoint.load(init) if init is not None else None
    with TrainLog(folder, say) as log:
        _Run(recipe, folder, log=log, say=say, start=start, data=data).to(out)


def _check_folders(out: Path, folder: Path, resume: bool) -> None:
    if out.exists():
        raise AltogetherError(f"{out} already exists: give another --out.")
    if folder.exists() and not resume:
        raise AltogetherError(
            f"{folder} has an unfinished run: add --resume to continue it, or remove the folder."
        )


class _Run:
    """The parts of one run and what they share."""

    def __init__(
        self,
        recipe: TrainRecipe,
        folder: Path,
        *,
        log: TrainLog,
        say: Say,
        start: Checkpoint | None,
        data: Path | None,
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.log = log
        self.say = say
        self.start = start
        self.config: CaptionerConfig = start.config if start else load_config(recipe.config)
        self.dataset = _dataset(recipe, data, say)
        self.tokenizer_path = self._tokenizer_file()
        self.tokenizer = PromptTokenizer.from_file(
            self.tokenizer_path, self.config.prompt, self.config.decoder.pad_id
        )

    def to(self, out: Path) -> None:
        """Run everything, from reading the images to writing the checkpoint."""
        pixels = load_pixels(self.dataset, self.config.encoder, self.folder / "cache", self.say)
        encoder = self._encoder(pixels)
        embeddings = self._embed(encoder, pixels)
        if self.start is not None:
            captioner = self.start.captioner(with_encoder=False)
        else:
            captioner = CaptionerModel(self.config)
        stages: tuple[Literal["pretrain", "finetune"], ...] = ("pretrain", "finetune")
        for name in stages:
            stage = getattr(self.recipe, name)
            if stage is not None:
                objective = CaptioningObjective(
                    name,
                    stage,
                    captioner,
                    tokenizer=self.tokenizer,
                    dataset=self.dataset,
                    embeddings=embeddings,
                    seed=self.recipe.seed,
                )
                self._train(objective)
        self._save(out, captioner, encoder)

    def _train(self, objective: Objective) -> None:
        minimize(
            objective,
            self.folder / f"state-{objective.name}.pt",
            self.log,
            save_every_steps=self.recipe.save_every_steps,
            log_every_steps=self.recipe.log_every_steps,
            sample_every_steps=self.recipe.sample_every_steps,
        )

    def _tokenizer_file(self) -> Path:
        path = self.folder / "tokenizer.json"
        if path.exists():
            return path
        if self.start is not None:
            shutil.copyfile(self.start.tokenizer_path, path)
        elif self.recipe.vocab_size:
            train_tokenizer(self.dataset, self.recipe.vocab_size, self.config.decoder, path)
        else:
            raise ConfigError(
                "the recipe does not train a tokenizer (vocab_size is 0): give --init CKPT, whose "
                "tokenizer is used."
            )
        return path

    def _encoder(self, pixels: NDArray[np.uint8]) -> Encoder:
        if self.start is not None:
            return self.start.encoder()
        stage = self.recipe.encoder
        if stage is None:
            return build_encoder(self.config.encoder)
        if not isinstance(self.dataset, ScenesDataset):
            raise ConfigError(
                "the stage [encoder] trains on scenes only: remove it from the recipe, or leave "
                "--data out."
            )
        clip: Any = build_clip(self.config.encoder)
        objective = ContrastiveObjective(
            stage,
            self.config.encoder,
            clip,
            tokenizer=self.tokenizer,
            dataset=self.dataset,
            pixels=pixels,
            seed=self.recipe.seed,
            eos_id=self.config.decoder.eos_id,
        )
        self._train(objective)
        return Encoder(self.config.encoder, clip.visual).eval().requires_grad_(False)

    def _embed(self, encoder: Encoder, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings of all images, (N, E), cached in a file named after the encoder's weights."""
        digest = hashlib.sha256()
        for tensor in encoder.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        path = self.folder / "cache" / f"embeddings-{len(pixels)}-{digest.hexdigest()[:16]}.npy"
        if not path.exists():
            embeddings = np.empty((len(pixels), *self.config.encoder.embedding_shape), np.float32)
            with torch.no_grad():
                for first in range(0, len(pixels), _EMBEDDING_BATCH):
                    batch = torch.from_numpy(pixels[first : first + _EMBEDDING_BATCH].copy())
                    embeddings[first : first + len(batch)] = encoder(batch).numpy()
            with new_file(path) as file:
                np.save(file, embeddings)
        loaded: NDArray[np.float32] = np.load(path)
        return loaded

    def _save(self, out: Path, captioner: CaptionerModel, encoder: Encoder) -> None:
        state = {k: v for k, v in captioner.state_dict().items() if not k.startswith("encoder.")}
        state |= {f"encoder.{k}": v for k, v in encoder.visual.state_dict().items()}
        about = {"trained_with": self.recipe.config, "seed": self.recipe.seed}
        save_checkpoint(out, self.config, state, self.tokenizer_path, about)


def _dataset(recipe: TrainRecipe, data: Path | None, say: Say) -> Dataset:
    if data is not None:
        return FolderDataset(data, say)
    if recipe.data.source == "folder":
        return FolderDataset(Path(recipe.data.path), say)
    return ScenesDataset(recipe.data.num_scenes, recipe.data.scenes_seed)
