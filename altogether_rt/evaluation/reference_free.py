"""Metrics that need no references: length, duplicates, names and words of the alt-text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from altogether_rt.evaluation.metric import Metric, Unavailable, mean_metric, percent_metric
from altogether_rt.evaluation.names import (
    NAMES_DEFINITION,
    NameFinder,
    contains_name,
    plain_words,
)
from altogether_rt.metrics import tokenize

__all__ = ["reference_free_metrics"]

_LENGTH: Final = "mean number of words that have a letter or digit"
_DUPLICATES: Final = "captions with the same words as the caption of another image"
_KEPT: Final = f"names of the alt-texts that the captions contain; {NAMES_DEFINITION}"
_NEW: Final = (
    "names of the captions with a word that is neither in the image's alt-texts nor in its "
    f"references; {NAMES_DEFINITION}"
)
_WORDS_KEPT: Final = "different words of the alt-texts that the captions contain"

Texts = Mapping[str, Sequence[str]]


def reference_free_metrics(
    captions: Mapping[str, str], alts: Texts, references: Texts
) -> Iterator[Metric | Unavailable]:
    """The metrics of all captions, with or without references.

    alts: () for an image without alt-text; an image whose alt-texts are unknown is absent.
    """
    words = {image: _counted_words(text) for image, text in captions.items()}
    lengths = {image: float(len(some)) for image, some in words.items()}
    yield mean_metric("words", "words per caption", _LENGTH, "words", lengths)
    copies = Counter(tuple(some) for some in words.values())
    repeated = {image: (int(copies[tuple(some)] > 1), 1) for image, some in words.items()}
    yield percent_metric("duplicates", "duplicates", _DUPLICATES, repeated, higher_is_better=False)
    with_alt = {image: alts[image] for image in captions if any(alts.get(image, ()))}
    finder = NameFinder(
        text
        for texts in ((captions[i], *alts.get(i, ()), *references.get(i, ())) for i in captions)
        for text in texts
    )
    if with_alt:
        yield _names_kept(captions, with_alt, finder)
        yield _alt_words_kept(words, with_alt)
    else:
        reason = "there are no alt-texts: give --alt, or captions whose rows have them"
        yield Unavailable("names_kept", "alt-text names kept", reason)
        yield Unavailable("alt_words_kept", "alt-text words kept", reason)
    if alts or references:
        yield _names_unsupported(captions, alts, references, finder)
    else:
        reason = "there are neither alt-texts nor references"
        yield Unavailable("names_unsupported", "unsupported names", reason)


def _counted_words(text: str) -> list[str]:
    """Words with a letter or digit, brackets (`-lrb-`) excluded."""
    words = (word for word in tokenize(text) if any(c.isalnum() for c in word))
    return [word for word in words if not (word[0] == word[-1] == "-")]


def _names_kept(captions: Mapping[str, str], alts: Texts, finder: NameFinder) -> Metric:
    counts = {}
    for image, texts in alts.items():
        names = {name for text in texts for name in finder.names(text)}
        words = plain_words(captions[image])
        counts[image] = (sum(contains_name(words, name) for name in names), len(names))
    label = "alt-text names kept"
    return percent_metric("names_kept", label, _KEPT, counts, higher_is_better=True)


def _names_unsupported(
    captions: Mapping[str, str], alts: Texts, references: Texts, finder: NameFinder
) -> Metric:
    counts = {}
    for image, caption in captions.items():
        if image not in alts and image not in references:
            continue  # unknown which names are supported
        sources = (*alts.get(image, ()), *references.get(image, ()))
        known = {word for text in sources for word in plain_words(text)}
        names = finder.names(caption)
        counts[image] = (sum(not known.issuperset(name) for name in names), len(names))
    return percent_metric(
        "names_unsupported", "unsupported names", _NEW, counts, higher_is_better=False
    )


def _alt_words_kept(words: Mapping[str, list[str]], alts: Texts) -> Metric:
    counts = {}
    for image, texts in alts.items():
        wanted = {word for text in texts for word in _counted_words(text)}
        counts[image] = (len(wanted.intersection(words[image])), len(wanted))
    label = "alt-text words kept"
    return percent_metric("alt_words_kept", label, _WORDS_KEPT, counts)
