"""METEOR from counts, and against pycocoevalcap where it and Java are installed."""

from __future__ import annotations

import importlib.util
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from altogether_rt.evaluation.meteor import meteor_from_counts, meteor_metric, why_no_meteor
from altogether_rt.evaluation.metric import Bootstrap, Metric, Unavailable

#: Counts and scores of METEOR 1.5 for six captions of photographs, as the program gives them.
COUNTS = [
    [9, 10, 5, 6, 1, 1, 4, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 3, 6, 6],
    [11, 10, 6, 6, 3, 3, 4, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 7, 7],
    [10, 12, 5, 5, 3, 3, 4, 4, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 8, 8],
    [10, 9, 6, 5, 2, 2, 5, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 7, 7],
    [11, 10, 6, 5, 3, 3, 4, 4, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 2, 8, 8],
    [10, 9, 5, 4, 3, 3, 3, 3, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 5, 7, 7],
]
SCORES = [
    0.23548980536674874,
    0.3755398252520796,
    0.2816538246187417,
    0.3418515700152929,
    0.41674389393161093,
    0.3238049818221367,
]
TOGETHER = 0.32467375207867827

needs_java = pytest.mark.skipif(why_no_meteor() is not None, reason=str(why_no_meteor()))


@pytest.mark.lean
def test_scores_of_counts() -> None:
    counts = np.array(COUNTS, float)
    assert meteor_from_counts(counts) == pytest.approx(SCORES, abs=1e-12)
    assert meteor_from_counts(counts.sum(axis=0, keepdims=True))[0] == pytest.approx(TOGETHER)
    assert meteor_from_counts(np.array([[3.0, 4, 1, 1, *[0] * 19]])) == 0  # nothing in common


@pytest.mark.lean
def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    missing = meteor_metric({"a": "x"}, {"a": ("x",)})
    assert isinstance(missing, Unavailable)
    assert "altogether-rt[meteor]" in missing.reason
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "needs Java" in str(why_no_meteor())


def published(
    captions: dict[str, str], references: dict[str, list[str]]
) -> tuple[float, list[float]]:
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    ours = tokenizer.tokenize({i: [{"caption": text}] for i, text in captions.items()})
    theirs = tokenizer.tokenize(
        {i: [{"caption": text} for text in texts] for i, texts in references.items()}
    )
    score, each = Meteor().compute_score(theirs, ours)
    return score, each


@needs_java
@pytest.mark.slow
def test_agrees_with_pycocoevalcap() -> None:
    lines = (
        (Path(__file__).parent.parent / "metrics/web_text.jsonl").read_text("utf-8").splitlines()
    )
    texts = [json.loads(line)["text"] for line in lines[:80]]
    captions = {str(i): f"{a} {b}" for i, (a, b) in enumerate(itertools.pairwise(texts))}
    references = {i: [texts[int(i)], texts[int(i) + 1]] for i in captions}
    captions["0"] = references["0"][0]  # the reference itself
    score, each = published(captions, references)
    metric = meteor_metric(captions, references)
    assert isinstance(metric, Metric)
    assert metric.estimate(Bootstrap(num_resamples=100)).value == pytest.approx(score, abs=1e-9)
    assert metric.each == pytest.approx(each, abs=1e-9)
    assert metric.higher_is_better is True
    # What the program itself refuses: captions without a word.
    empty = meteor_metric({"a": "", "b": "!!", "c": "a boat"}, dict.fromkeys("abc", ("a boat",)))
    assert isinstance(empty, Metric)
    assert empty.each == pytest.approx([0, 0, 1])


@needs_java
@pytest.mark.slow
def test_photographs(shared_data: Path) -> None:
    """30 COCO photographs: pycocoevalcap 1.2 gives 0.2861047263428151."""
    rows = json.loads((shared_data / "captions/captions.json").read_text("utf-8"))["annotations"]
    texts: dict[str, list[str]] = {}
    for row in rows:
        texts.setdefault(str(row["image_id"]), []).append(row["caption"])
    captions = {image: some[0] for image, some in texts.items()}
    metric = meteor_metric(captions, {image: some[1:] for image, some in texts.items()})
    assert isinstance(metric, Metric)
    value = metric.estimate(Bootstrap(num_resamples=100)).value
    assert value == pytest.approx(0.2861047263428151, abs=1e-9)
