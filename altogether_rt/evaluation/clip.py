"""The CLIP score: the cosine of an image's and a caption's embeddings.

Hessel et al.: CLIPScore, EMNLP 2021, scaled by 100 as in torchmetrics.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from altogether_rt.data.embeddings import SavedEmbeddings, read_stamp
from altogether_rt.data.images import load_image
from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.evaluation.inputs import image_path
from altogether_rt.evaluation.metric import Metric, Unavailable
from altogether_rt.importing.encoders import check_encoder_weights, encoder_config
from altogether_rt.model.encoder import Encoder, build_clip, is_published
from altogether_rt.preprocess.pixels import Preprocessor

__all__ = ["ClipModel", "ClipScore", "ImageEmbeddings", "clip_score", "open_embeddings"]

_BATCH: Final = 32
#: Minimum cosine between a saved embedding and one computed again from the image. An 8-bit export
#: of the same encoder reaches 0.99; the embeddings of two different CLIP models are unrelated.
_SAME_ENCODER: Final = 0.9


class ClipModel:
    """The image and text encoders of an open_clip model, on the CPU."""

    def __init__(self, name: str, weights: str | None = None) -> None:
        """Loads a model.

        name: open_clip's name, a JSON file in open_clip's format, or a published model
        (`hf-hub:org/repo`, `local-dir:path`), which has its own weights. weights: open_clip's tag,
        or a file. Raises AltogetherError if the model cannot be loaded.
        """
        if weights is None and not is_published(name):
            raise AltogetherError(
                f"{name} needs weights: give open_clip's tag for them, or a file (--clip-weights)."
            )
        config = encoder_config(None, normalize=True, name=name, tag=weights)
        if weights is not None:
            check_encoder_weights(config, weights)
        clip: Any = build_clip(config, weights, allow_download=True)  # the user named it
        self.name = name if weights is None else f"{name}, {weights}"
        self.embed_dim = config.embed_dim
        self._clip = clip.eval()
        self._vision = Encoder(config, clip.visual).eval()
        self._preprocessor = Preprocessor(config)
        self._tokenizer = _tokenizer(name, clip)
        self.num_truncated = 0  # texts longer than the context length

    @property
    def context_length(self) -> int:
        """Maximum tokens of a text, including the start and end tokens."""
        return int(self._clip.context_length)

    @torch.inference_mode()
    def embed_image(self, path: Path) -> NDArray[np.float32]:
        """The normalised embedding, (embed_dim,). Raises ImageError if the file cannot be read."""
        pixels = torch.from_numpy(self._preprocessor.pixels(load_image(path)).copy())
        array: NDArray[np.float32] = _array(self._vision(pixels[None]))[0]
        return array

    @torch.inference_mode()
    def embed_texts(self, texts: list[str]) -> NDArray[np.float32]:
        """The normalised embeddings, (num_texts, embed_dim); counts truncated texts."""
        self.num_truncated += sum(self._num_tokens(text) > self.context_length for text in texts)
        ids = self._tokenizer(texts, context_length=self.context_length)
        return _array(F.normalize(self._clip.encode_text(ids), dim=-1))

    def _num_tokens(self, text: str) -> int:
        if hasattr(self._tokenizer, "encode"):
            ids: list[int] = self._tokenizer.encode(text)
            return len(ids) + 2
        ids = self._tokenizer.tokenizer(text)["input_ids"]  # open_clip's HFTokenizer
        return len(ids)


@dataclass(frozen=True)
class ImageEmbeddings:
    """Image embeddings: from a file of saved ones if there is one, else computed from images."""

    root: Path | None = None
    saved: SavedEmbeddings | None = None

    def embedding(self, file: str, model: ClipModel) -> NDArray[np.float32]:
        """The embedding of an image file, (embed_dim,). Raises ImageError if there is none."""
        if self.saved is not None:
            return self.saved.get(file).embedding
        return self._computed(file, model)

    def check_encoder(self, files: Iterable[str], model: ClipModel) -> None:
        """Raises AltogetherError if the saved embeddings cannot be those of `model`.

        Compares their width and, if the images are there as well, the embedding of the first image.
        """
        if self.saved is None:
            return
        for file in files:
            try:
                theirs = self.saved.get(file).embedding
                if theirs.shape != (model.embed_dim,):
                    raise AltogetherError(
                        f"{self.saved.path} holds embeddings of width {len(theirs)}, but those of "
                        f"{model.name} are of width {model.embed_dim}: give the CLIP model that "
                        "made them."
                    )
                ours = None if self.root is None else self._computed(file, model)
            except ImageError:
                continue
            cosine = 1.0 if ours is None else float(clip_score(ours[None], theirs[None])[0]) / 100
            if cosine < _SAME_ENCODER:
                raise AltogetherError(
                    f"{self.saved.path} holds embeddings of another encoder than {model.name} (the "
                    f"cosine for {file} is {cosine:.2f}): give the CLIP model that made them."
                )
            return

    def _computed(self, file: str, model: ClipModel) -> NDArray[np.float32]:
        if self.root is None:
            raise ImageError("not_a_file", f"There is no image folder for {file}.")
        return model.embed_image(image_path(self.root, file))


def open_embeddings(path: Path) -> SavedEmbeddings:
    """Saved embeddings of any encoder. Raises AltogetherError if the file holds none."""
    return SavedEmbeddings(path, read_stamp(path))


def _tokenizer(name: str, clip: Any) -> Any:
    import open_clip

    if name.endswith(".json"):
        return open_clip.tokenizer.SimpleTokenizer(context_length=int(clip.context_length))
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        return open_clip.get_tokenizer(name, context_length=int(clip.context_length))
    finally:
        logging.disable(disabled)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().numpy()
    return array


def clip_score(images: NDArray[np.float32], texts: NDArray[np.float32]) -> NDArray[np.float64]:
    """100 · cosine of each pair of embeddings: two (num_pairs, embed_dim) -> (num_pairs,)."""
    images, texts = images.astype(np.float64), texts.astype(np.float64)
    lengths = np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1)
    scores: NDArray[np.float64] = 100 * (images * texts).sum(axis=1) / lengths
    return scores


class ClipScore:
    """Scores captions with a CLIP model and the embeddings of their images."""

    def __init__(self, model: ClipModel, images: ImageEmbeddings) -> None:
        self._model = model
        self._images = images

    @property
    def encoder(self) -> str | None:
        """The encoder id in the file of saved embeddings; None if images are read."""
        saved = self._images.saved
        return None if saved is None else saved.stamp.encoder

    def metrics(
        self,
        captions: Mapping[str, str],
        files: Mapping[str, str],
        problems: Problems,
        advance: Callable[[], None] = lambda: None,
    ) -> Iterator[Metric | Unavailable]:
        """The CLIP score of the captions whose image has an embedding.

        files: the file name of each image. problems: gets the images without an embedding.
        Raises AltogetherError if the saved embeddings are of another encoder.
        """
        model = self._model
        self._images.check_encoder((files[image] for image in captions), model)
        scores: dict[str, float] = {}
        model.num_truncated = 0
        rows = iter(captions)
        while batch := list(islice(rows, _BATCH)):
            embeddings: dict[str, NDArray[np.float32]] = {}
            for image in batch:
                try:
                    embeddings[image] = self._images.embedding(files[image], model)
                except ImageError as error:
                    problems.add(str(error))
                advance()
            if embeddings:
                texts = model.embed_texts([captions[image] for image in embeddings])
                values = clip_score(np.stack(list(embeddings.values())), texts)
                scores |= zip(embeddings, values.tolist(), strict=True)
        if scores:
            yield _metric(scores, model)
        else:
            yield Unavailable("clip_score", "CLIP score", f"no image has an embedding: {problems}")


def _metric(scores: Mapping[str, float], model: ClipModel) -> Metric:
    percent_truncated = 100 * model.num_truncated / len(scores)
    definition = (
        "max(mean of 100 · cosine of the image's and the caption's embeddings, 0), as in "
        f"torchmetrics, with {model.name}"
    )
    remark = (
        f"{percent_truncated:.1f} % of the captions were longer than {model.context_length} tokens "
        "and truncated"
    )
    each = np.array(list(scores.values()))
    return Metric(
        "clip_score",
        "CLIP score",
        definition,
        "points",
        tuple(scores),
        np.stack([each, np.ones(len(each))], axis=1),
        _mean_above_zero,
        np.maximum(each, 0),
        higher_is_better=True,
        remark=remark,
    )


def _mean_above_zero(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(totals[:, 0] / totals[:, 1], 0)
