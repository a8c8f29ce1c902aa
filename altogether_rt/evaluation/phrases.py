"""Noun phrases that captions share with their references, found with spaCy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from altogether_rt.errors import AltogetherError
from altogether_rt.evaluation.metric import Metric, Unavailable

__all__ = ["DEFAULT_MODEL", "PHRASE_FORMS", "PhraseFinder", "PhraseForm", "phrase_metrics"]

DEFAULT_MODEL: Final = "en_core_web_sm"

PhraseForm = Literal["text", "no-determiner", "lemmas", "head"]

#: Forms in which noun chunks are compared.
PHRASE_FORMS: Final[Mapping[PhraseForm, str]] = {
    "text": "as written",
    "no-determiner": "without its determiner",
    "lemmas": "without its determiner, every word its lemma",
    "head": "the lemma of its head alone",
}
_LABELS: Final = {
    "precision": "noun phrases, precision",
    "recall": "noun phrases, recall",
    "f1": "noun phrases, F1",
}
_BATCH: Final = 128

Advance = Callable[[], None]


class PhraseFinder:
    """A spaCy model that finds the noun chunks of a text."""

    def __init__(self, model: str = DEFAULT_MODEL, form: PhraseForm = "lemmas") -> None:
        """Raises AltogetherError if spaCy or the model is not installed."""
        try:
            import spacy
        except ImportError as error:
            raise AltogetherError("needs spaCy: pip install 'altogether-rt[eval]'") from error
        try:
            self._model: Any = spacy.load(model, exclude=["ner"])
        except (OSError, ValueError, ImportError) as error:
            raise AltogetherError(
                f"needs spaCy's model {model}: python -m spacy download {model}"
            ) from error
        self.name = f"{model} {self._model.meta.get('version', '')}".strip()
        self.version = f"spaCy {version('spacy')}"
        self._form = form

    @property
    def definition(self) -> str:
        return (
            f"noun chunks of {self.version} with {self.name}, {PHRASE_FORMS[self._form]}, in lower "
            "case, without pronouns, each counted once per caption"
        )

    def phrases(self, texts: Iterable[str]) -> Iterator[set[str]]:
        """The different phrases of each text."""
        for document in self._model.pipe(texts, batch_size=_BATCH):
            yield {text for chunk in document.noun_chunks if (text := self._written(chunk))}

    def _written(self, chunk: Any) -> str:
        """A chunk in the form that is compared; "" for a pronoun."""
        if chunk.root.pos_ == "PRON":
            return ""
        if self._form == "head":
            return str(chunk.root.lemma_).lower()
        words = list(chunk)
        if self._form != "text":
            while words and words[0].pos_ in ("DET", "PRON"):
                words = words[1:]
        written = (word.lemma_ if self._form == "lemmas" else word.text for word in words)
        return " ".join(written).lower().strip()


def phrase_metrics(
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    finder: PhraseFinder,
    advance: Advance = lambda: None,
) -> Iterator[Metric | Unavailable]:
    """Precision, recall and F1 of the images that have a caption and references.

    A caption's phrases are compared with the phrases of all references of its image, and the counts
    are summed over images.
    """
    images = tuple(image for image in captions if image in references)
    texts = [text for image in images for text in (captions[image], *references[image])]
    found = finder.phrases(texts)
    rows = np.zeros((len(images), 3))
    for index, image in enumerate(images):
        said = next(found)
        wanted: set[str] = set().union(*(next(found) for _ in references[image]))
        rows[index] = len(said & wanted), len(said), len(wanted)
        advance()
    for key, label in _LABELS.items():
        statistic = partial(_score, kind=key)
        yield Metric(
            f"phrase_{key}",
            label,
            f"{finder.definition}; {key} against the phrases of all references of the image, from "
            "counts summed over images",
            "score",
            images,
            rows,
            statistic,
            statistic(rows),
            higher_is_better=True,
            remark=finder.definition if key == "f1" else "",
        )


def _score(totals: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """Of (shared, said, wanted): (num_sets, 3) -> (num_sets,)."""
    shared, said, wanted = totals.T
    whole = {"precision": said, "recall": wanted, "f1": (said + wanted) / 2}[kind]
    with np.errstate(invalid="ignore", divide="ignore"):
        score: NDArray[np.float64] = shared / whole
    return score
