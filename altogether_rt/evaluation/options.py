"""Options of an evaluation: the models that some metrics need. Each may be absent."""

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
        """The encoder id in the file of saved embeddings; None if images are read."""

    def metrics(
        self,
        captions: Mapping[str, str],
        files: Mapping[str, str],
        problems: Problems,
        advance: Callable[[], None],
    ) -> Iterable[Metric | Unavailable]:
        """The metrics of the captions whose image has an embedding; others go to `problems`."""


@dataclass
class EvaluationOptions:
    """What to compute. A metric whose model is absent is unavailable, with the reason."""

    phrases: PhraseFinder | None = None
    why_no_phrases: str = "switched off by --no-phrases"
    clip: ClipScorer | None = None
    meteor: bool = True
    missing_as_empty: bool = False  # score images without a caption as if it were empty
    advance: Callable[[], None] = lambda: None  # called after each caption of slow metrics


def load_clip(
    name: str, weights: str | None, images: Path | None, embeddings: Path | None
) -> ClipScorer:
    """A scorer with a CLIP model and image files, or embeddings that `caption` has saved.

    Raises AltogetherError if there are no images or something cannot be loaded,
    ModuleNotFoundError if open_clip is not installed.
    """
    if embeddings is None and images is None:
        raise AltogetherError("the CLIP score needs images: give --images or --embeddings.")
    from altogether_rt.evaluation.clip import ClipModel, ClipScore, ImageEmbeddings, open_embeddings

    saved = None if embeddings is None else open_embeddings(embeddings)
    return ClipScore(ClipModel(name, weights), ImageEmbeddings(images, saved))
