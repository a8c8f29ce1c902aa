"""A whole training run: data, tokenizer, encoder, the training stages in order, the checkpoint."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from altogether_rt.artifacts.checkpoint import Checkpoint, save_checkpoint
from altogether_rt.config import CaptionerConfig, load_config
from altogether_rt.errors import ConfigError
from altogether_rt.machine.limits import available_cores
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.model.encoder import Encoder, build_clip, build_encoder
from altogether_rt.model.lora import add_lora, check_peft, merge_lora
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.train.captioning import CaptioningObjective, HeldOut
from altogether_rt.train.compute.device import device_name, training_device
from altogether_rt.train.compute.embeddings import EmbeddingCache, SomeEmbeddings
from altogether_rt.train.compute.threads import fastest_num_threads
from altogether_rt.train.contrastive import ContrastiveObjective
from altogether_rt.train.data import Dataset, ScenesDataset, Subset, open_dataset, split_held_out
from altogether_rt.train.folder import (
    ENCODER_NAME,
    TOKENIZER_NAME,
    check_folders,
    has_states,
    opened,
    run_folder,
    state_path,
)
from altogether_rt.train.log import TrainLog
from altogether_rt.train.loop import measure_pass, minimize
from altogether_rt.train.prepared import PreparedImages, prepare_images
from altogether_rt.train.recipe import DataRecipe, TrainRecipe
from altogether_rt.train.record import RunRecord
from altogether_rt.train.snapshot import checkpoint_of, save_encoder
from altogether_rt.train.tokenizer import train_tokenizer

__all__ = ["train"]

Say = Callable[[str], None]


def train(
    recipe: TrainRecipe,
    out: Path,
    *,
    init: Path | None = None,
    data: Path | DataRecipe | None = None,
    resume: bool = False,
    skip_bad: bool = False,
    threads: int | None = None,
    device: str = "cpu",
    max_embedding_bytes: int | None = None,
    allow_download: bool = False,
    say: Say = print,
) -> None:
    """Run a recipe and write the checkpoint `out`; its state and logs go to `<out>.training`.

    init: a checkpoint to start from, instead of random weights and the encoder that the recipe's
    configuration names; or the folder of a run, for what it saved last. data: instead of the
    recipe's; a path is that of a file with images beside it. resume: continue the run in
    `<out>.training`. skip_bad: leave out rows and images that cannot be used. threads: of torch;
    None: those measured to be fastest.
    device: `cpu`, `cuda`, `cuda:N`, or `auto` for a GPU if there is one. max_embedding_bytes: to be
    kept on the disk; None: half of what is free. allow_download: of `init`, see `Checkpoint.load`.
    say: gets progress lines. Raises AltogetherError if `out` exists, a run cannot be resumed, or
    the data cannot be read.
    """
    where = training_device(device)
    folder = run_folder(out)
    check_folders(out, folder, resume)
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    if isinstance(data, Path):
        data = DataRecipe("folder", path=str(data))
    if data is not None:
        recipe = dataclasses.replace(recipe, data=data)
    start = None
    with ExitStack() as stack:
        stack.enter_context(opened(folder))
        if init is not None:
            start = Checkpoint.load(
                stack.enter_context(checkpoint_of(init, say)), allow_download=allow_download
            )
        log = stack.enter_context(TrainLog(folder, say))
        run = _Run(recipe, folder, log=log, say=say, start=start, skip_bad=skip_bad, device=where)
        run.max_embedding_bytes = max_embedding_bytes
        run.to(out, threads)


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
        skip_bad: bool,
        device: torch.device,
    ) -> None:
        self.recipe = recipe
        self.device = device
        self.max_embedding_bytes: int | None = None
        self.folder = folder
        self.log = log
        self.say = say
        self.start = start
        self.config: CaptionerConfig = start.config if start else load_config(recipe.config)
        self.resumed = has_states(folder)
        self.record = RunRecord.new(recipe, self.config, start)
        if gpu := device_name(device):
            self.record.versions["device"] = gpu
        self.former = RunRecord.read(folder) if self.resumed else None
        if self.former is not None:
            self.former.check_same(self.record, folder)
            self.record.threads, self.record.stages = self.former.threads, self.former.stages
            if self.record.versions != self.former.versions:
                say(
                    "this run was begun with other versions of packages, or on another device: it "
                    "may end with other bits"
                )
        elif self.resumed:
            say(
                f"{folder} is of an older version, which did not note recipe and data: not compared"
            )
        self.skip_bad = skip_bad
        self.dataset = open_dataset(recipe.data, say, skip_bad=skip_bad)

    def to(self, out: Path, threads: int | None) -> None:
        """Run everything, from reading the images to writing the checkpoint."""
        self.threads = threads
        self._check_stages()
        if not self.resumed:
            self.record.write(self.folder)
        images = prepare_images(
            self.dataset,
            self.config.encoder,
            self.folder / "cache",
            self.say,
            skip_bad=self.skip_bad,
        )
        if images.bad:
            self.dataset = Subset(self.dataset, images.indices)
        train, held_out = split_held_out(self.dataset, self.recipe.holdout)
        self._note_data(images, len(held_out))
        self.tokenizer = self._tokenizer(Subset(self.dataset, train))
        encoder = self._encoder(images, train, held_out)
        embeddings = self._embed(encoder, images)
        captioner = self._captioner()
        measured = HeldOut(Subset(self.dataset, held_out), SomeEmbeddings(embeddings, held_out))
        names: tuple[Literal["pretrain", "finetune"], ...] = ("pretrain", "finetune")
        for name in names:
            stage = getattr(self.recipe, name)
            if stage is None:
                continue
            if stage.lora is not None:
                add_lora(captioner, stage.lora.rank, stage.lora.alpha)
            objective = CaptioningObjective(
                name,
                stage,
                captioner.to(self.device),
                tokenizer=self.tokenizer,
                dataset=Subset(self.dataset, train),
                embeddings=SomeEmbeddings(embeddings, train),
                seed=self.recipe.seed,
                held_out=measured if held_out else None,
            )
            self._train(objective)
        self._save(out, captioner.cpu(), encoder.cpu())

    def _captioner(self) -> CaptionerModel:
        if self.start is not None:
            return self.start.captioner(with_encoder=False)
        return CaptionerModel(self.config)

    def _check_stages(self) -> None:
        """Raise what can be known before images are prepared."""
        if self.recipe.lora is not None:
            check_peft()
        if self.start is None and not self.recipe.vocab_size:
            raise ConfigError(
                "the recipe does not train a tokenizer (vocab_size is 0): give --init CKPT, whose "
                "tokenizer is used."
            )
        from_scratch = self.start is None and self.recipe.encoder is not None
        if from_scratch and not isinstance(self.dataset, ScenesDataset):
            raise ConfigError(
                "the stage [encoder] trains on scenes only: remove it from the recipe, or leave "
                "--data out."
            )

    def _note_data(self, images: PreparedImages, num_held_out: int) -> None:
        """Record what is trained on. Raises AltogetherError if the run began with other data."""
        self.record.note_data(self.recipe.data.source, self.dataset, images, num_held_out)
        if self.former is not None:
            self.former.check_same(self.record, self.folder)
        self.record.write(self.folder)
        if num_held_out:
            self.say(f"{num_held_out:,} of {len(self.dataset):,} images are held out")

    def _train(self, objective: CaptioningObjective | ContrastiveObjective) -> None:
        name = objective.name
        # What it began with goes on: with another number, sums would have another order.
        threads = self.threads or self.record.threads.get(name)
        if threads is None and self.device.type != "cpu":
            threads = available_cores()
        if threads is None:
            threads = fastest_num_threads(partial(measure_pass, objective), available_cores())
            self.say(f"{name}: {threads} of {available_cores()} threads, measured to be fastest")
        torch.set_num_threads(threads)
        self.record.threads[name] = threads
        self.record.write(self.folder)
        history = minimize(
            objective,
            state_path(self.folder, name),
            self.log,
            save_every_steps=self.recipe.save_every_steps,
            log_every_steps=self.recipe.log_every_steps,
            sample_every_steps=self.recipe.sample_every_steps,
            evaluate=objective.evaluate,
        )
        self.record.stages[name] = history.to_dict()
        self.record.write(self.folder)

    def _tokenizer(self, dataset: Dataset) -> PromptTokenizer:
        """The tokenizer that the run began with, or a new one."""
        path = self.folder / TOKENIZER_NAME
        if not (self.resumed and path.exists()):
            if self.start is not None:
                shutil.copyfile(self.start.tokenizer_path, path)
            else:
                train_tokenizer(dataset, self.recipe.vocab_size, self.config.decoder, path)
        return PromptTokenizer.of_captioner(path, self.config)

    def _encoder(self, images: PreparedImages, train: list[int], held_out: list[int]) -> Encoder:
        encoder = self._build_encoder(images, train, held_out)
        if not (self.resumed and (self.folder / ENCODER_NAME).is_file()):
            save_encoder(encoder, self.folder)
        return encoder

    def _build_encoder(
        self, images: PreparedImages, train: list[int], held_out: list[int]
    ) -> Encoder:
        if self.start is not None:
            return self.start.encoder()
        stage = self.recipe.encoder
        if stage is None:
            return build_encoder(self.config.encoder, allow_download=True)
        assert isinstance(self.dataset, ScenesDataset), "checked before"
        clip: Any = build_clip(self.config.encoder, allow_download=True).to(self.device)
        objective = ContrastiveObjective(
            stage,
            self.config.encoder,
            clip,
            tokenizer=self.tokenizer,
            dataset=self.dataset,
            pixels=images,
            train=train,
            held_out=held_out,
            seed=self.recipe.seed,
            eos_id=self.config.decoder.eos_id,
        )
        self._train(objective)
        return Encoder(self.config.encoder, clip.cpu().visual).eval().requires_grad_(False)

    def _embed(self, encoder: Encoder, images: PreparedImages) -> EmbeddingCache:
        return EmbeddingCache(
            encoder.to(self.device),
            images,
            self.folder / "cache",
            self.say,
            max_bytes=self.max_embedding_bytes,
        )

    def _save(self, out: Path, captioner: CaptionerModel, encoder: Encoder) -> None:
        state = {k: v for k, v in captioner.state_dict().items() if not k.startswith("encoder.")}
        if self.recipe.lora is not None:
            state = merge_lora(state, self.recipe.lora.scale)
        state |= {f"encoder.{k}": v for k, v in encoder.visual.state_dict().items()}
        save_checkpoint(
            out, self.config, state, self.folder / TOKENIZER_NAME, self.record.to_dict()
        )
