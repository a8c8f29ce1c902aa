"""The objective of captioner training: mapper and decoder on the frozen encoder's embeddings."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from altogether_rt.config import CaptionerConfig
from altogether_rt.metrics import DocumentFrequencies, bleu, cider_d
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.train.compute.device import device_of
from altogether_rt.train.compute.embeddings import Embeddings
from altogether_rt.train.data import Dataset, example_order, finetune_texts, pretrain_texts
from altogether_rt.train.recipe import TrainingStage

__all__ = ["CaptioningObjective", "EncodedExample", "HeldOut"]

#: Steps whose examples are drawn together and sorted by length, to keep padding low.
_STEPS_PER_POOL = 8

#: Held-out images whose loss is computed, and those of them for which captions are generated.
_MAX_HELD_OUT = 2048
_MAX_GENERATED = 64


@dataclass(frozen=True)
class HeldOut:
    """Examples that are never trained on."""

    dataset: Dataset
    embeddings: Embeddings  # of its images


@dataclass(frozen=True)
class EncodedExample:
    """One training sequence after the visual tokens."""

    image: int  # index in the dataset
    prompt_ids: tuple[int, ...]
    caption_ids: tuple[int, ...]  # ends with EOS unless truncated

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.caption_ids)


class CaptioningObjective:
    """The objective of both captioner stages: cross-entropy on the caption's tokens and EOS."""

    def __init__(
        self,
        name: Literal["pretrain", "finetune"],
        stage: TrainingStage,
        captioner: CaptionerModel,
        *,
        tokenizer: PromptTokenizer,
        dataset: Dataset,
        embeddings: Embeddings,
        seed: int,
        held_out: HeldOut | None = None,
    ) -> None:
        self.name: str = name
        self.optimization = stage.optimization
        self._captioner = captioner
        self._config: CaptionerConfig = captioner.config
        self._tokenizer = tokenizer
        self._dataset = dataset
        self._embeddings = embeddings  # of the dataset's images
        captioner.decoder.gradient_checkpointing = self.optimization.gradient_checkpointing
        self._alt_dropout = stage.alt_dropout
        self._texts = pretrain_texts if name == "pretrain" else finetune_texts
        self._seed = seed
        self._held_out = held_out
        self._pool: tuple[int, list[list[EncodedExample]]] = (-1, [])

    @property
    def module(self) -> nn.Module:
        return self._captioner

    def loss(self, step: int, micro_batch: int) -> Tensor:
        """Mean cross-entropy over the caption tokens of one micro-batch."""
        size = self._micro_batch_size
        batch = self.batch(step)[micro_batch * size : (micro_batch + 1) * size]
        logits, targets = self._predict(batch, self._embeddings)
        return F.cross_entropy(logits.float(), targets)

    @property
    def _micro_batch_size(self) -> int:
        return self.optimization.batch_size // self.optimization.accumulation

    def _predict(self, batch: Sequence[EncodedExample], of: Embeddings) -> tuple[Tensor, Tensor]:
        """Logits (caption tokens, vocab) and targets (caption tokens) of all captions in a batch.

        of: embeddings that the examples' images index.
        """
        prefix = len(self._config.prompt.before_ids) + self._config.mapper.prefix_length
        length = max(len(example) for example in batch)
        # The last caption token predicts nothing, so it is not part of the input.
        ids = np.full((len(batch), max(1, length - 1)), self._config.decoder.pad_id, np.int64)
        rows: list[int] = []
        positions: list[int] = []
        targets: list[int] = []
        for row, example in enumerate(batch):
            sequence = (*example.prompt_ids, *example.caption_ids)
            ids[row, : len(sequence) - 1] = sequence[:-1]
            start = prefix + len(example.prompt_ids) - 1
            rows += [row] * len(example.caption_ids)
            positions += range(start, start + len(example.caption_ids))
            targets += example.caption_ids
        device = device_of(self._captioner)
        embeddings = torch.from_numpy(of.take([example.image for example in batch]))
        visual_tokens = self._captioner.visual_tokens(embeddings.to(device))
        wanted = torch.tensor([rows, positions]).T.to(device)  # (caption tokens, 2)
        logits = self._captioner.logits(visual_tokens, torch.from_numpy(ids).to(device), wanted)
        return logits, torch.tensor(targets, device=device)

    def batch(self, step: int) -> list[EncodedExample]:
        """The examples of a step, similar in length, from the pool that it shares with others."""
        pool, index = divmod(step, _STEPS_PER_POOL)
        if self._pool[0] != pool:
            self._pool = (pool, self._draw(pool))
        return self._pool[1][index]

    def _draw(self, pool: int) -> list[list[EncodedExample]]:
        size = self.optimization.batch_size
        rng = random.Random(f"{self._seed}/{self.name}/{pool}")
        count = size * _STEPS_PER_POOL
        order = example_order(self._seed, len(self._dataset), pool * count, count)
        examples = [self._encode(index, epoch, rng) for epoch, index in order]
        examples.sort(key=len)
        batches = [examples[start : start + size] for start in range(0, count, size)]
        rng.shuffle(batches)
        for batch in batches:
            rng.shuffle(batch)  # micro-batches get examples of all lengths
        return batches

    def _encode(self, index: int, epoch: int, rng: random.Random) -> EncodedExample:
        alts, target = self._texts(self._dataset, index, epoch, rng, self._alt_dropout)
        return self._encode_texts(index, alts, target)

    def _encode_texts(self, index: int, alts: Sequence[str], target: str) -> EncodedExample:
        prompt = self._tokenizer.prompt(alts)
        limit = self._config.max_caption_tokens
        caption = [*self._tokenizer.encode(target), self._config.decoder.eos_id][:limit]
        return EncodedExample(index, prompt.ids, tuple(caption))

    def sample(self, step: int) -> str:
        """The alt-texts of a training image and the caption generated for it."""
        index = step % len(self._dataset)
        example = self._dataset.example(index, 0)
        (ids,) = self.generate(self._embeddings.take([index]), [example.alts])
        return f"[{' '.join(example.alts)}] -> {self._tokenizer.decode(ids)}"

    def evaluate(self, last: bool) -> dict[str, float]:
        """Loss and token accuracy on what is held out; empty if nothing is.

        Conditions are all alt-texts (in pretraining: another one), never dropped. last: also
        CIDEr-D (of two images or more) and BLEU-4 of captions generated for the first
        `_MAX_GENERATED` images, which take long.
        """
        if self._held_out is None:
            return {}
        dataset, embeddings = self._held_out.dataset, self._held_out.embeddings
        texts = [
            self._texts(dataset, index, 0, random.Random(index), 0.0)
            for index in range(min(len(dataset), _MAX_HELD_OUT))
        ]
        examples = [self._encode_texts(index, *pair) for index, pair in enumerate(texts)]
        total = right = count = 0.0
        for first in range(0, len(examples), self._micro_batch_size):
            batch = examples[first : first + self._micro_batch_size]
            logits, targets = self._predict(batch, embeddings)
            total += float(F.cross_entropy(logits.float(), targets, reduction="sum"))
            right += float((logits.argmax(1) == targets).sum())
            count += len(targets)
        figures = {"loss": total / count, "token_accuracy": right / count}
        if last:
            references = [[target] for _, target in texts]
            texts = texts[:_MAX_GENERATED]
            shown = embeddings.take(range(len(texts)))
            written = self.generate(shown, [alts for alts, _ in texts])
            captions = [self._tokenizer.decode(ids) for ids in written]
            if len(references) > 1:  # of one image, every n-gram would weigh nothing
                frequencies = DocumentFrequencies.from_references(references)
                figures["cider_d"] = cider_d(captions, references[: len(texts)], frequencies).mean
            figures["bleu_4"] = bleu(captions, references[: len(texts)])
        return figures

    def generate(
        self, embeddings: NDArray[np.float32], alts: Sequence[Sequence[str]]
    ) -> list[list[int]]:
        """Greedy captions, by a pass over whole sequences for every token: slow but simple.

        embeddings: (B, E). Returns the captions' token ids without EOS.
        """
        device = device_of(self._captioner)
        visual_tokens = self._captioner.visual_tokens(torch.from_numpy(embeddings).to(device))
        prompts = [list(self._tokenizer.prompt(texts).ids) for texts in alts]
        captions: list[list[int]] = [[] for _ in prompts]
        open_rows = list(range(len(prompts)))
        for _ in range(self._config.max_caption_tokens):
            rows = [prompts[row] + captions[row] for row in open_rows]
            ids = np.full((len(rows), max(map(len, rows))), self._config.decoder.pad_id, np.int64)
            for filled, tokens in zip(ids, rows, strict=True):
                filled[: len(tokens)] = tokens
            prefix = len(self._config.prompt.before_ids) + visual_tokens.shape[1]
            last = [[i, prefix + len(tokens) - 1] for i, tokens in enumerate(rows)]
            logits = self._captioner.logits(
                visual_tokens[open_rows],
                torch.from_numpy(ids).to(device),
                torch.tensor(last, device=device),
            )
            chosen = zip(open_rows, logits.argmax(1).tolist(), strict=True)
            open_rows = []
            for row, token in chosen:
                if token != self._config.decoder.eos_id:
                    captions[row].append(token)
                    open_rows.append(row)
            if not open_rows:
                break
        return captions
