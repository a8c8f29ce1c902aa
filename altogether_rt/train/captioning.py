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
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.preprocess import PromptTokenizer
from altogether_rt.train.data import Dataset, example_order, finetune_texts, pretrain_texts
from altogether_rt.train.recipe import TrainingStage

__all__ = ["CaptioningObjective", "EncodedExample"]

#: Steps whose examples are drawn together and sorted by length, to keep padding low.
_STEPS_PER_POOL = 8


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
        embeddings: NDArray[np.float32],
        seed: int,
    ) -> None:
        self.name: str = name
        self.optimization = stage.optimization
        self._captioner = captioner
        self._config: CaptionerConfig = captioner.config
        self._tokenizer = tokenizer
        self._dataset = dataset
        self._embeddings = embeddings  # (N, E) or (N, patches, E)
        self._alt_dropout = stage.alt_dropout
        self._texts = pretrain_texts if name == "pretrain" else finetune_texts
        self._seed = seed
        self._pool: tuple[int, list[list[EncodedExample]]] = (-1, [])

    @property
    def module(self) -> nn.Module:
        return self._captioner

    def loss(self, step: int, micro_batch: int) -> Tensor:
        """Mean cross-entropy over the caption tokens of one micro-batch."""
        size = self.optimization.batch_size // self.optimization.accumulation
        batch = self.batch(step)[micro_batch * size : (micro_batch + 1) * size]
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
        images = np.array([example.image for example in batch])
        embeddings = torch.from_numpy(self._embeddings[images])  # (B, E)
        visual_tokens = self._captioner.visual_tokens(embeddings)
        wanted = torch.tensor([rows, positions]).T  # (caption tokens, 2)
        logits = self._captioner.logits(visual_tokens, torch.from_numpy(ids), wanted)
        return F.cross_entropy(logits.float(), torch.tensor(targets))

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
        prompt = self._tokenizer.prompt(alts)
        limit = self._config.max_caption_tokens
        caption = [*self._tokenizer.encode(target), self._config.decoder.eos_id][:limit]
        return EncodedExample(index, prompt.ids, tuple(caption))

    def sample(self, step: int) -> str:
        """The alt-texts of a training image and the caption generated for it."""
        index = step % len(self._dataset)
        example = self._dataset.example(index, 0)
        ids = self.generate(self._embeddings[index : index + 1], example.alts)
        return f"[{' '.join(example.alts)}] -> {self._tokenizer.decode(ids)}"

    def generate(self, embedding: NDArray[np.float32], alts: Sequence[str]) -> list[int]:
        """A greedy caption, by a pass over the whole sequence for every token: slow but simple.

        embedding: (1, E). Returns the caption's token ids without EOS.
        """
        visual_tokens = self._captioner.visual_tokens(torch.from_numpy(embedding))
        ids = list(self._tokenizer.prompt(alts).ids)
        caption: list[int] = []
        for _ in range(self._config.max_caption_tokens):
            tokens = torch.tensor([ids + caption], dtype=torch.int64)
            before = len(self._config.prompt.before_ids)
            last = before + visual_tokens.shape[1] + tokens.shape[1] - 1
            logits = self._captioner.logits(visual_tokens, tokens, torch.tensor([[0, last]]))
            token = int(logits.argmax())
            if token == self._config.decoder.eos_id:
                break
            caption.append(token)
        return caption
