"""What some metrics need beyond the texts: models, images, Java. Each may be absent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError
from altogether_rt.evaluation.metric import Metric, Unavailable
from altogether_rt.evaluation.phrases import PhraseFinder

__all__ = ["ClipScorer", "EvaluationOptions", "load_clip"]


class ClipScorer(Protocol):
    """Scores captions by their images."""

    @property
    def encoder(self) -> str | None:
        """What saved embeddings say that made them; None if images are read."""

    def metrics(
        self,
        captions: Mapping[str, str],
        files: Mapping[str, str],
        problems: Problems,
        advance: Callable[[], None],
    ) -> Iterable[Metric | Unavailable]:
        """Of the captions whose image, named by `files`, can be had; others go to `problems`."""


@dataclass
class EvaluationOptions:
    """Without one, its metrics are unavailable, and say why."""

    phrases: PhraseFinder | None = None
    why_no_phrases: str = "not asked for"
    clip: ClipScorer | None = None
    meteor: bool = True
    missing_as_empty: bool = False  # score images without a caption as if it were empty
    advance: Callable[[], None] = lambda: None  # called after each caption of slow metrics


def load_clip(
    name: str, weights: str | None, images: Path | None, embeddings: Path | None
) -> ClipScorer:
    """A CLIP and its images: image files, or embeddings that `caption` saved.

    Raises AltogetherError if there are no images or something cannot be loaded,
    ModuleNotFoundError where open_clip is not installed.
    """
    if embeddings is None and images is None:
        raise AltogetherError("the CLIP score needs images: give --images or --embeddings.")
    from altogether_rt.evaluation.clip import ClipModel, ClipScore, ImageEmbeddings, open_embeddings

    saved = None if embeddings is None else open_embeddings(embeddings)
    return ClipScore(ClipModel(name, weights), ImageEmbeddings(images, saved))
