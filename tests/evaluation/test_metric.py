"""Figures, their intervals and paired differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from altogether_rt.evaluation.metric import (
    Bootstrap,
    Metric,
    differences,
    estimates,
    mean_metric,
    percent_metric,
)
from altogether_rt.evaluation.overlap import overlap_metrics
from altogether_rt.metrics import bleu, cider_d, rouge_l
from altogether_rt.statistics import Interval

pytestmark = pytest.mark.lean

QUICK = Bootstrap(num_resamples=400)
WORDS = ["a", "the", "red", "blue", "small", "boat", "bird", "tree", "sea", "sky", "near", "two"]


def corpus(seed: int, num: int = 60) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Captions that share words with their references by chance and by half of them being one."""
    rng = np.random.default_rng(seed)

    def text() -> str:
        return " ".join(rng.choice(WORDS, 8))

    references: dict[str, tuple[str, ...]] = {f"{i}.png": (text(), text()) for i in range(num)}
    captions = {
        image: f"{' '.join(texts[0].split()[:5])} {text()}" for image, texts in references.items()
    }
    return captions, references


def test_overlap_metrics_are_the_metrics() -> None:
    captions, references = corpus(1)
    found = {metric.key: metric for metric in overlap_metrics(captions, references)}
    candidates, targets = list(captions.values()), list(references.values())
    expected = {
        "bleu_1": bleu(candidates, targets, 1),
        "bleu_4": bleu(candidates, targets),
        "rouge_l": rouge_l(candidates, targets),
        "cider_d": cider_d(candidates, targets).mean,
    }
    for key, value in expected.items():
        metric = found[key]
        assert isinstance(metric, Metric)
        estimate = metric.estimate(QUICK)
        assert estimate.value == pytest.approx(value)
        assert estimate.interval.low < value < estimate.interval.high
        assert estimate.num_images == 60
        assert metric.each is not None and len(metric.each) == 60
        assert metric.higher_is_better is True


def test_document_frequencies_are_of_all_references() -> None:
    """Fewer captions, the same weights: the scores of the images that are left stay."""
    captions, references = corpus(2)
    some = dict(list(captions.items())[:10])
    *_, whole = overlap_metrics(captions, references)
    *_, part = overlap_metrics(some, references)
    assert part.each == pytest.approx(whole.each[:10])  # type: ignore[union-attr, index]


def test_one_image_has_no_cider() -> None:
    captions, references = corpus(3, num=1)
    *_, cider = overlap_metrics(captions, references)
    assert "at least two images" in cider.reason  # type: ignore[union-attr]


def test_differences_are_paired() -> None:
    """Images of very different difficulty, systems 0.01 apart on each."""
    hard = dict(zip("abcdefgh", np.linspace(0, 100, 8).tolist(), strict=True))
    ours = mean_metric("x", "x", "", "score", {k: v + 0.01 for k, v in hard.items()})
    theirs = mean_metric("x", "x", "", "score", dict(reversed(hard.items())))  # another order
    there, back = differences([(ours, theirs), (theirs, ours)], QUICK)
    assert there.difference.value == pytest.approx(0.01)
    assert there.difference.interval == pytest.approx((0.01, 0.01))
    assert back.difference.value == pytest.approx(-0.01)


def test_differences_are_of_the_images_that_both_have() -> None:
    ours = mean_metric("x", "x", "", "score", {"a": 1.0, "b": 2.0, "c": 6.0})
    theirs = mean_metric("x", "x", "", "score", {"c": 4.0, "z": 9.0, "b": 3.0})
    (found,) = differences([(ours, theirs)], QUICK)
    assert (found.ours.value, found.theirs.value, found.difference.value) == (4, 3.5, 0.5)
    assert found.difference.num_images == 2
    other = mean_metric("x", "x", "", "score", {"y": 1.0})
    assert differences([(ours, other)], QUICK) == []


def test_metrics_together_have_the_intervals_of_each_alone() -> None:
    """One draw of the images serves them all."""
    captions, references = corpus(4)
    metrics = [m for m in overlap_metrics(captions, references) if isinstance(m, Metric)]
    metrics.append(mean_metric("x", "x", "", "score", {"a": 1.0, "b": 2.0}))  # of other images
    alone = [metric.estimate(QUICK) for metric in metrics]
    for together, single in zip(estimates(metrics, QUICK), alone, strict=True):
        assert together.value == single.value
        assert together.interval == pytest.approx(single.interval)


def test_some_of_its_images() -> None:
    metric = mean_metric("x", "x", "", "score", {"a": 1.0, "b": 2.0, "c": 6.0})
    kept = metric.of(["c", "a"])
    assert kept.images == ("c", "a")
    assert kept.value == 3.5
    assert kept.each is not None and kept.each.tolist() == [6, 1]


def test_shares_are_of_sums() -> None:
    metric = percent_metric("x", "x", "", {"a": (1, 1), "b": (0, 3), "c": (0, 0)})
    estimate = metric.estimate(QUICK)
    assert estimate.value == 25  # not the mean of 100 and 0
    assert estimate.num_images == 2  # "c" adds nothing


def test_differences_of_shares_are_of_all_images() -> None:
    """Also of those where only one of the two systems has something to count."""
    ours = percent_metric("x", "x", "", {"a": (1, 1), "b": (0, 0), "c": (0, 0)})
    theirs = percent_metric("x", "x", "", {"a": (0, 0), "b": (1, 2), "c": (0, 0)})
    (found,) = differences([(ours, theirs)], QUICK)
    assert (found.difference.value, found.difference.num_images) == (50, 2)


def test_figures_as_they_are_shown() -> None:
    percent = percent_metric("x", "x", "", {"a": (1, 3)})
    assert percent.shown(33.333) == "33.3 %"
    assert percent.shown(1.25, signed=True) == "+1.2 pp"
    assert percent.shown(-0.04, signed=True) == "+0.0 pp"
    assert percent.shown(math.nan) == "–"
    assert percent.shown_interval(Interval(0.0, 12.34)) == "0.0 % … 12.3 %"
    assert percent.shown_interval(Interval(-1.0, 1.0), signed=True) == "-1.0 pp … +1.0 pp"
    assert percent.shown_interval(Interval(math.nan, math.nan)) == "–"
    assert mean_metric("x", "x", "", "points", {"a": 1.0}).shown(-0.123, signed=True) == "-0.12"
