"""BLEU, ROUGE-L and CIDEr-D: n-gram overlap of captions with their references."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np

from altogether_rt.evaluation.metric import Metric, Unavailable, mean_metric
from altogether_rt.metrics import (
    DocumentFrequencies,
    bleu_counts,
    bleu_from_counts,
    cider_d,
    rouge_l_each,
)

__all__ = ["overlap_metrics"]

_BLEU: Final = (
    "BLEU of the whole set (Papineni et al. 2002), n-grams of up to {n} words, no smoothing, "
    "reference length: the closest"
)
_ROUGE: Final = "mean over images of ROUGE-L (Lin 2004), β = 1.2, best precision and best recall"
_CIDER: Final = (
    "mean over images of CIDEr-D (Vedantam et al. 2015), 0 to 10, with the document frequencies of "
    "all {num} images that have references; they are the same in every resample, so the interval "
    "is for other images with the same n-gram weights"
)


def overlap_metrics(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> Iterator[Metric | Unavailable]:
    """The metrics of images that have a caption and references.

    CIDEr's document frequencies are of all images in `references`.
    """
    images = tuple(image for image in captions if image in references)
    candidates = [captions[image] for image in images]
    targets = [references[image] for image in images]
    counts = bleu_counts(candidates, targets)
    for n in (1, 4):
        yield Metric(
            f"bleu_{n}",
            f"BLEU-{n}",
            _BLEU.format(n=n),
            "score",
            images,
            counts,
            partial(bleu_from_counts, max_n=n),
            np.array([bleu_from_counts(row[None], n)[0] for row in counts]),
            higher_is_better=True,
        )
    rouge = dict(zip(images, rouge_l_each(candidates, targets), strict=True))
    yield mean_metric("rouge_l", "ROUGE-L", _ROUGE, "score", rouge, higher_is_better=True)
    if len(references) < 2:
        reason = "needs document frequencies from at least two images with references"
        yield Unavailable("cider_d", "CIDEr-D", reason)
        return
    frequencies = DocumentFrequencies.from_references(references.values())
    scores = cider_d(candidates, targets, frequencies).each
    definition = _CIDER.format(num=f"{len(references):,}")
    cider = dict(zip(images, scores, strict=True))
    yield mean_metric("cider_d", "CIDEr-D", definition, "score", cider, higher_is_better=True)
