"""Caption metrics against values of other implementations and values worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from altogether_rt import metrics
from altogether_rt.errors import AltogetherError
from altogether_rt.metrics import (
    DocumentFrequencies,
    bleu,
    bleu_counts,
    bleu_from_counts,
    cider_d,
    rouge_l,
    rouge_l_each,
)

pytestmark = pytest.mark.lean

CAPTIONS = [
    "A man riding a wave on top of a surfboard.",
    "a brown dog sits on a red couch",
    "two people are walking down the street with umbrellas",
]
REFERENCES = [
    [
        "A man on a surfboard riding a wave.",
        "A surfer rides a big wave in the ocean.",
        "a man riding a wave",
    ],
    [
        "A brown dog sitting on the red sofa.",
        "a dog is lying on a couch",
        "The dog's couch is red and the dog is brown.",
    ],
    [
        "Two women walk down a wet street with umbrellas",
        "people are walking in the rain",
        "a street with two people and umbrellas, in the rain",
    ],
]


def test_scores_of_the_coco_caption_evaluation() -> None:
    """pycocoevalcap 1.2 on the same words gives these; its BLEU adds 1e-15 here and there."""
    scores = cider_d(CAPTIONS, REFERENCES)
    assert scores.each == pytest.approx([2.8113925074, 1.7686039125, 2.4102431158], rel=1e-9)
    assert scores.mean == pytest.approx(2.3300798453, rel=1e-9)
    assert bleu(CAPTIONS, REFERENCES) == pytest.approx(0.3516148904, rel=1e-9)
    assert rouge_l(CAPTIONS, REFERENCES) == pytest.approx(0.6667475676, rel=1e-9)


def test_cider_by_hand() -> None:
    """Two images with one reference of one word each: every step fits on a line."""
    # "cat" is in 1 of 2 images: weight log 2. "cat cat" has tf 2, clipped to 1: the cosine is
    # (log2 · log2) / (2 log2 · log2) = 1/2. Of n = 1..4 only n = 1 has n-grams on both sides.
    # "cat cat" has one bigram and "cat" none, so lengths differ by 1: exp(-1/72).
    scores = cider_d(["cat cat", "cat"], [["cat"], ["dog"]])
    assert scores.each[0] == pytest.approx(10 * 0.5 / 4 * math.exp(-1 / 72))
    assert scores.each[1] == 0
    # The other way round nothing is clipped: the cosine is 1.
    scores = cider_d(["cat", "dog"], [["cat cat"], ["dog"]])
    assert scores.each[0] == pytest.approx(10 / 4 * math.exp(-1 / 72))


def test_cider_of_a_caption_without_the_longer_n_grams() -> None:
    """ "a cat" has no three words in a row, its reference has: they share nothing for n = 3, 4."""
    # Every n-gram is in 1 of 2 images, so all weights are equal: 2 of 4 words, 1 of 3 pairs.
    cosines = 2 / math.sqrt(2 * 4) + 1 / math.sqrt(1 * 3)
    scores = cider_d(["a cat", ""], [["a cat sat down"], ["two dogs"]])
    assert scores.each == pytest.approx([10 * cosines / 4 * math.exp(-(2**2) / 72), 0])


def test_cider_of_the_only_reference_is_ten() -> None:
    captions = ["a red boat on the lake", "two cats sleep on a sofa"]
    assert cider_d(captions, [[caption] for caption in captions]).mean == pytest.approx(10)


def test_document_frequencies_count_images_not_captions() -> None:
    frequencies = DocumentFrequencies.from_references([["a cat", "a cat", "a dog"], ["a bird"]])
    assert frequencies.counts[("a",)] == 2
    assert frequencies.counts[("a", "cat")] == 1
    assert frequencies.weight(("a",)) == 0
    assert frequencies.weight(("unseen",)) == frequencies.weight(("cat",)) == math.log(2)


def test_given_frequencies_make_one_image_scorable() -> None:
    frequencies = DocumentFrequencies.from_references([["a cat"], ["a dog"], ["the sea at dawn"]])
    assert cider_d(["the cat sat down"], [["the cat sat down"]], frequencies).mean == pytest.approx(
        10
    )
    with pytest.raises(AltogetherError, match="at least two images"):
        cider_d(["the cat"], [["the cat"]])


def test_bleu_of_the_paper_that_introduced_it() -> None:
    """Papineni et al.'s first example; 0.5046 is what NLTK's corpus_bleu gives for it."""
    candidate = (
        "It is a guide to action which ensures that the military always obeys the commands of the"
        " party"
    )
    references = [
        "It is a guide to action that ensures that the military will forever heed Party commands",
        "It is the guiding principle which guarantees the military forces always being under the"
        " command of the Party",
        "It is the practical guide for the army always to heed the directions of the party",
    ]
    # NLTK tells "Party" from "party"; we do not.
    references[:2] = [reference.replace("Party", "Partei") for reference in references[:2]]
    assert bleu([candidate], [references]) == pytest.approx(0.5045666840058485)


def test_bleu_by_hand() -> None:
    # 3 of 4 words and 2 of 3 pairs match; 4 words against 5: brevity exp(1 - 5/4).
    expected = math.sqrt(3 / 4 * 2 / 3) * math.exp(1 - 5 / 4)
    assert bleu(["a red boat here"], [["a red boat sails away"]], 2) == pytest.approx(expected)
    assert bleu(["a red boat here"], [["a red boat sails away"]]) == 0  # no four in a row
    assert bleu(["the the the the"], [["the cat"]], 1) == pytest.approx(1 / 4)  # counted once
    assert bleu(["a boat"], [["a boat"]]) == 0  # it has no three words in a row
    assert bleu(["a boat"], [["a boat"]], 2) == 1


@pytest.mark.parametrize(
    ("lengths", "brevity"),
    [
        ((1, 5), math.exp(1 - 5 / 4)),  # the closest is longer
        ((3, 9), 1.0),  # the closest is shorter
        ((3, 5), 1.0),  # equally close: the shorter
        ((5, 3), 1.0),
    ],
)
def test_brevity_is_that_against_the_closest_reference(
    lengths: tuple[int, int], brevity: float
) -> None:
    references = [" ".join(["a"] * length) for length in lengths]
    share = min(4, max(lengths)) / 4  # of the four words, those that a reference has
    assert bleu(["a a a a"], [references], 1) == pytest.approx(share * brevity)


def test_rouge_by_hand() -> None:
    # Common subsequence "a boat sails": P = 3/4, R = 3/5.
    precision, recall = 3 / 4, 3 / 5
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l(["a boat here sails"], [["a red boat sails away"]]) == pytest.approx(expected)
    assert rouge_l(["x"], [["y"]]) == 0
    assert rouge_l(["", "same"], [["y"], ["same", ""]]) == pytest.approx(0.5)


def test_counts_must_agree() -> None:
    for metric in (cider_d, bleu, rouge_l):
        with pytest.raises(AltogetherError, match="2 captions but references for 1"):
            metric(["a", "b"], [["a"]])
        with pytest.raises(AltogetherError, match="without a reference"):
            metric(["a", "b"], [["a"], []])
        with pytest.raises(AltogetherError, match="without a reference"):
            metric([], [])


def test_corpus_scores_are_those_of_the_captions_counts() -> None:
    """What a bootstrap over images resamples gives the whole set's score for the whole set."""
    counts = bleu_counts(CAPTIONS, REFERENCES)
    assert counts.shape == (3, 10)
    twice = counts.sum(axis=0) * [[1], [2]]  # every caption twice: the same score
    assert bleu_from_counts(twice) == pytest.approx([bleu(CAPTIONS, REFERENCES)] * 2)
    assert bleu_from_counts(counts[:1], 1)[0] == pytest.approx(
        bleu(CAPTIONS[:1], REFERENCES[:1], 1)
    )
    alone = [bleu([c], [r], 2) for c, r in zip(CAPTIONS, REFERENCES, strict=True)]
    assert len(set(alone)) == 3
    assert bleu_from_counts(counts, 2) == pytest.approx(alone)
    each = rouge_l_each(CAPTIONS, REFERENCES)
    assert sum(each) / 3 == rouge_l(CAPTIONS, REFERENCES)


def test_no_name_hides_a_module() -> None:
    modules = {path.stem for path in Path(metrics.__path__[0]).glob("*.py")}
    assert not modules & set(metrics.__all__)


def first_against_others(path: Path) -> tuple[list[str], list[list[str]]]:
    """Each image's first caption, and its others as references."""
    captions: dict[int, list[str]] = {}
    for annotation in json.loads(path.read_text("utf-8"))["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    return [each[0] for each in captions.values()], [each[1:] for each in captions.values()]


def test_on_photographs(shared_data: Path) -> None:
    """30 COCO photographs, raw text (pycocoevalcap 1.2's values)."""
    candidates, references = first_against_others(shared_data / "captions/captions.json")
    assert bleu(candidates, references, 1) == pytest.approx(0.7310126582255347, abs=1e-9)
    assert bleu(candidates, references) == pytest.approx(0.29410002970935945, abs=1e-9)
    assert rouge_l(candidates, references) == pytest.approx(0.5539016903518753, abs=1e-9)
    assert cider_d(candidates, references).mean == pytest.approx(1.2544532366107204, abs=1e-9)


@pytest.mark.slow
def test_on_val2017(shared_data: Path) -> None:
    """All 5,000 images of COCO val2017, raw text (pycocoevalcap 1.2's values)."""
    path = shared_data / "captions/captions_val2017_textonly.json"
    candidates, references = first_against_others(path)
    assert len(candidates) == 5000
    assert bleu(candidates, references, 1) == pytest.approx(0.6344705701552054, abs=1e-6)
    assert bleu(candidates, references) == pytest.approx(0.19553851792504892, abs=1e-6)
    assert rouge_l(candidates, references) == pytest.approx(0.4717583581954499, abs=1e-6)
    assert cider_d(candidates, references).mean == pytest.approx(0.886544201761606, abs=1e-6)
