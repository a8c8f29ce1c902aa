"""The objective that trains a CLIP model from scratch on scenes, for the starter's own encoder.

The loss is CLIP's contrastive loss (Radford et al. 2021, arXiv 2103.00020) plus a classification of
the scene's facts from the same embedding: batches are thousands of times smaller than CLIP's, and
with few negatives a colour alone tells most images apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from altogether_rt.config import EncoderConfig
from altogether_rt.preprocess.pixels import Preprocessor
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.scene import FACT_CLASSES, fact_labels
from altogether_rt.scenes.text import make_sample, make_scene
from altogether_rt.train.compute.device import device_of
from altogether_rt.train.data import ScenesDataset, example_order
from altogether_rt.train.prepared import PreparedImages
from altogether_rt.train.recipe import EncoderStage

__all__ = ["ContrastiveObjective"]

#: Length of the normalised embedding as the fact classifier reads it: at length 1 its logits would
#: have too small a range.
_EMBEDDING_SCALE = 16.0

_NUM_HELD_OUT = 500


class ContrastiveObjective:
    """CLIP with its text tower, and a linear classifier of facts that is discarded afterwards."""

    name = "encoder"

    def __init__(
        self,
        stage: EncoderStage,
        encoder: EncoderConfig,
        clip: nn.Module,
        *,
        tokenizer: PromptTokenizer,
        dataset: ScenesDataset,
        pixels: PreparedImages,
        train: Sequence[int],
        held_out: Sequence[int],
        seed: int,
        eos_id: int,
    ) -> None:
        """train, held_out: the scenes to train on, and those to measure on alone."""
        assert encoder.model is not None, (
            "the encoder stage trains a custom open_clip configuration"
        )
        self.optimization = stage.optimization
        self._fact_weight = stage.fact_weight
        self._text_length = int(encoder.model["text_cfg"]["context_length"])
        self._clip: Any = clip
        self._facts = nn.Linear(encoder.embed_dim, sum(FACT_CLASSES)).to(device_of(clip))
        self._module = nn.ModuleDict({"clip": clip, "facts": self._facts})
        self._tokenizer = tokenizer
        self._dataset = dataset
        self._pixels = pixels
        self._train = train
        self._held_out = held_out
        self._seed = seed
        self._eos_id = eos_id
        self._encoder = encoder
        self._mean = torch.tensor(encoder.mean).view(1, 3, 1, 1)
        self._std = torch.tensor(encoder.std).view(1, 3, 1, 1)

    @property
    def module(self) -> nn.Module:
        return self._module

    def loss(self, step: int, micro_batch: int) -> Tensor:
        """Contrastive loss plus the weighted mean cross-entropy of the facts."""
        size = self.optimization.batch_size // self.optimization.accumulation
        first = step * self.optimization.batch_size + micro_batch * size
        order = example_order(self._seed, len(self._train), first, size)
        return self._loss_of([self._train[i] for _, i in order])

    def evaluate(self, last: bool) -> dict[str, float]:
        """The loss on held-out scenes, by batches of the size of training's; empty without them."""
        size = min(self.optimization.batch_size // self.optimization.accumulation, _NUM_HELD_OUT)
        scenes = self._held_out[:_NUM_HELD_OUT]
        whole = scenes[: len(scenes) // size * size] or scenes
        batches = [whole[first : first + size] for first in range(0, len(whole), size)]
        losses = [float(self._loss_of(list(batch))) for batch in batches]
        return {"loss": sum(losses) / len(losses)} if losses else {}

    def _loss_of(self, indices: list[int]) -> Tensor:
        image = F.normalize(
            self._clip.encode_image(self._normalised(self._pixels.take(indices))), dim=-1
        )  # (B, E)
        loss = self._contrastive(image, indices)
        if self._fact_weight:
            loss = loss + self._fact_weight * self._fact_loss(image, indices)
        return loss

    def _normalised(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Pixels, uint8 (B, H, W, 3), as the vision tower reads them, float32 (B, 3, H, W)."""
        on_device = torch.from_numpy(pixels).to(self._device)
        scaled = on_device.permute(0, 3, 1, 2).float() / 255
        return (scaled - self._mean.to(self._device)) / self._std.to(self._device)

    @property
    def _device(self) -> torch.device:
        return device_of(self._facts)

    def _contrastive(self, image: Tensor, indices: list[int]) -> Tensor:
        ids = torch.full((len(indices), self._text_length), self._eos_id, dtype=torch.int64)
        for row, index in enumerate(indices):
            caption = make_sample(self._dataset.seed, index).visual_caption
            tokens = self._tokenizer.encode(caption)[: self._text_length - 1]
            ids[row, : len(tokens)] = torch.tensor(tokens)
        text = F.normalize(self._clip.encode_text(ids.to(self._device)), dim=-1)
        logits = self._clip.logit_scale.exp().clamp(max=100) * image @ text.T  # (B, B)
        target = torch.arange(len(indices), device=self._device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def _fact_loss(self, image: Tensor, indices: list[int]) -> Tensor:
        logits = self._fact_logits(image)
        labels = self._labels(indices)
        losses = [F.cross_entropy(part, labels[:, i]) for i, part in enumerate(logits)]
        return torch.stack(losses).sum()

    def _fact_logits(self, image: Tensor) -> tuple[Tensor, ...]:
        return self._facts(image * _EMBEDDING_SCALE).split(FACT_CLASSES, dim=1)  # type: ignore[no-any-return]

    def _labels(self, indices: list[int]) -> Tensor:
        scenes = (make_scene(self._dataset.seed, index) for index in indices)
        return torch.tensor([fact_labels(scene) for scene in scenes], device=self._device)

    def sample(self, step: int) -> str:
        """The classifier's accuracy on held-out scenes, fact by fact."""
        scenes = [make_scene(self._dataset.seed, i, "test") for i in range(_NUM_HELD_OUT)]
        preprocessor = Preprocessor(self._encoder)
        pixels = np.stack([preprocessor.pixels(render(scene)) for scene in scenes])
        image = F.normalize(self._clip.encode_image(self._normalised(pixels)), dim=-1)
        labels = torch.tensor([fact_labels(scene) for scene in scenes], device=self._device)
        accuracies = [
            float((part.argmax(1) == labels[:, i]).float().mean())
            for i, part in enumerate(self._fact_logits(image))
        ]
        return "held-out facts right: " + " ".join(f"{accuracy:.3f}" for accuracy in accuracies)
