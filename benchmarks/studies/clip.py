"""A small CLIP trained on images with mixed texts, with its contrastive loss alone.

The image tower is trained as well, or it is locked (Zhai et al. 2022, arXiv 2111.07991): then the
images are embeddings that were computed before, and only the text tower is trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from altogether_rt.config import EncoderConfig
from altogether_rt.mixing.draw import MixDraw, MixedText, mix_text
from altogether_rt.model.encoder import build_clip
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.train.data import example_order
from altogether_rt.train.recipe import Optimization

__all__ = ["Clip", "ClipObjective", "Images", "Pictures", "resized"]

_BATCH = 256

#: Pixels (N, H, W, 3) uint8, or embeddings (N, E) float32 of a locked image tower.
Images = NDArray[np.uint8] | NDArray[np.float32]


def resized(encoder: EncoderConfig, image_size: int, text_length: int) -> EncoderConfig:
    """`encoder` for images of another size and shorter texts."""
    assert encoder.model is not None
    model = dict(encoder.model)
    model["vision_cfg"] = {**model["vision_cfg"], "image_size": image_size}
    model["text_cfg"] = {**model["text_cfg"], "context_length": text_length}
    return dataclasses.replace(encoder, image_size=image_size, model=model)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Training images and their texts, in the same order."""

    keys: Sequence[str]
    images: Images
    alts: Sequence[Sequence[str]]  # each has one or more
    captions: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.keys)


class Clip:
    """Both towers: from images and texts to embeddings of length 1."""

    def __init__(
        self, config: EncoderConfig, tokenizer: PromptTokenizer, eos_id: int, *, locked: bool
    ) -> None:
        """Weights are random, from torch's generator. locked: without an image tower."""
        assert config.model is not None
        self.module: Any = build_clip(config)
        if locked:
            del self.module.visual
        self._tokenizer = tokenizer
        self._eos_id = eos_id
        self._text_length = int(config.model["text_cfg"]["context_length"])
        self._mean = torch.tensor(config.mean).view(1, 3, 1, 1)
        self._std = torch.tensor(config.std).view(1, 3, 1, 1)

    def images(self, images: Images) -> Tensor:
        """Pixels, or embeddings of any length, to embeddings (B, E)."""
        image = torch.from_numpy(images)
        if image.dtype == torch.uint8:
            scaled = image.permute(0, 3, 1, 2).float() / 255
            image = self.module.encode_image((scaled - self._mean) / self._std)
        return F.normalize(image, dim=-1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts to embeddings (B, E). Longer texts are cut, as in CLIP."""
        ids = torch.full((len(texts), self._text_length), self._eos_id, dtype=torch.int64)
        for row, text in enumerate(texts):
            tokens = self._tokenizer.encode(text)[: self._text_length - 1]
            ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        embedded: Tensor = self.module.encode_text(ids)
        return F.normalize(embedded, dim=-1)

    @torch.no_grad()
    def embed_images(self, images: Images) -> NDArray[np.float32]:
        """As `images`, a batch at a time and in evaluation mode."""
        self.module.eval()
        starts = range(0, len(images), _BATCH)
        return np.concatenate([self.images(images[i : i + _BATCH]).numpy() for i in starts])

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As `texts`, a batch at a time and in evaluation mode."""
        self.module.eval()
        starts = range(0, len(texts), _BATCH)
        return np.concatenate([self.texts(texts[i : i + _BATCH]).numpy() for i in starts])


class ClipObjective:
    """An objective of `train.loop`. In every epoch it is drawn again which texts are captions."""

    name = "clip"

    def __init__(
        self, optimization: Optimization, clip: Clip, pictures: Pictures, draw: MixDraw
    ) -> None:
        self.optimization = optimization
        self._clip = clip
        self._pictures = pictures
        self._draw = draw

    @property
    def module(self) -> nn.Module:
        module: nn.Module = self._clip.module
        return module

    def loss(self, step: int, micro_batch: int) -> Tensor:
        """CLIP's loss (Radford et al. 2021, arXiv 2103.00020) over the samples of a batch."""
        size = self.optimization.batch_size // self.optimization.accumulation
        first = step * self.optimization.batch_size + micro_batch * size
        order = example_order(self._draw.seed, len(self._pictures), first, size)
        image = self._clip.images(self._pictures.images[[index for _, index in order]])
        text = self._clip.texts([self.mixed(index, epoch).text for epoch, index in order])
        scale = self._clip.module.logit_scale.exp().clamp(max=100)
        logits = scale * image @ text.T  # (B, B)
        target = torch.arange(len(order))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def mixed(self, index: int, epoch: int) -> MixedText:
        """The text that an image is trained with in an epoch."""
        pictures = self._pictures
        mixed = mix_text(
            self._draw, pictures.keys[index], pictures.alts[index], pictures.captions[index], epoch
        )
        assert mixed is not None, "images without an alt-text are not in the training data"
        return mixed

    def share_of_captions(self) -> float:
        """The share of captions among the texts of all steps."""
        total = self.optimization.num_steps * self.optimization.batch_size
        order = example_order(self._draw.seed, len(self._pictures), 0, total)
        return sum(self.mixed(i, epoch).source == "caption" for epoch, i in order) / total

    def sample(self, step: int) -> str:
        """One of the texts that it was trained with."""
        return self.mixed(step % len(self._pictures), 0).text
