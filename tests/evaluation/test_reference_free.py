"""Names found in texts, and the shares that are made of them."""

from __future__ import annotations

import pytest

from altogether_rt.evaluation.metric import Bootstrap, Metric, Unavailable
from altogether_rt.evaluation.names import NameFinder, contains_name, plain_words
from altogether_rt.evaluation.reference_free import reference_free_metrics
from altogether_rt.scenes.text import make_sample

pytestmark = pytest.mark.lean


def names(text: str, *others: str) -> list[str]:
    return [" ".join(name) for name in NameFinder([text, *others]).names(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the Marigold at Porto Lindo", ["marigold", "porto lindo"]),
        ("a herd at the Mara River, Kenya", ["mara river", "kenya"]),  # a comma ends a name
        ("by J.R. Holloway and Mary-Ann O'Neill", ["j.r holloway", "mary-ann o'neill"]),
        ("near St. Paul's Cathedral", ["st paul", "cathedral"]),  # so does a possessive
        ("IMG_0042.JPG DSC0815 in May2014", []),  # file names and numbers are none
        ("a small red boat", []),
        ("Boats in the harbour", []),  # the first word says nothing by itself
        ("Ana Ruiz in the harbour", ["ana ruiz"]),  # unless the next one is a name's
        ("a boat. The sea. Lisbon", []),
        ("in Lisbon. Lisbon is old", ["lisbon"]),  # or it is one elsewhere
        ("вид на Неву", ["неву"]),
        ("the plan B of a boat", []),  # a letter is none
    ],
)
def test_names(text: str, expected: list[str]) -> None:
    assert names(text) == expected


def test_words_that_others_write_small_are_no_names() -> None:
    assert names("at the Old Harbour") == ["old harbour"]
    assert names("at the Old Harbour", "an old house", "old boats") == ["harbour"]


def test_titles_capitalise_everything() -> None:
    title = "Best Fish Restaurants Near Lisbon Harbour"
    others = ("the best fish", "restaurants near a harbour")
    assert names(title, *others) == ["lisbon"]


def test_capitals_of_a_title_say_nothing_of_a_word() -> None:
    title = "Big Red Barn Quilt Blocks"
    assert names("in the Barn", "a barn", title) == ["barn"]  # once each way
    assert names("in the Barn", "a barn", "the barn", title) == []


def test_names_of_scenes() -> None:
    """The generator knows which names its alt-texts have."""
    samples = [make_sample(3, index, "test") for index in range(300)]
    finder = NameFinder(text for s in samples for text in (*s.alts, *s.rounds))
    found, known = set(), set()
    for index, sample in enumerate(samples):
        found |= {(index, name) for alt in sample.alts for name in finder.names(alt)}
        known |= {(index, tuple(n.lower().split())) for n in sample.facts()["names"]}
    assert len(known) > 200
    assert len(found & known) / len(found) > 0.97
    assert len(found & known) / len(known) > 0.97


def test_contains_name() -> None:
    words = plain_words("At Porto Lindo's pier, with Ana")
    assert words == ["at", "porto", "lindo", "pier", "with", "ana"]
    assert contains_name(words, ("porto", "lindo"))
    assert not contains_name(words, ("lindo", "porto"))
    assert not contains_name(words, ("porto",) * 9)


CAPTIONS = {
    "a": "A red boat, the Marigold, at Porto Lindo.",
    "b": "A white boat near Lisbon.",
    "c": "A bird.",
    "d": "a bird",
}
ALTS = {"a": ("the Marigold at Porto Lindo",), "b": ("boat at Porto Lindo", "a white boat")}


def metrics(**others: object) -> dict[str, Metric | Unavailable]:
    arguments = {"captions": CAPTIONS, "alts": ALTS, "references": {}} | others
    return {metric.key: metric for metric in reference_free_metrics(**arguments)}  # type: ignore[arg-type]


def value(metric: Metric | Unavailable) -> float:
    assert isinstance(metric, Metric)
    return metric.estimate(Bootstrap(num_resamples=100)).value


def test_shares_by_hand() -> None:
    found = metrics()
    # Marigold and Porto Lindo of "a" are kept, Porto Lindo of "b" is not.
    assert value(found["names_kept"]) == pytest.approx(100 * 2 / 3)
    # Of Marigold, Porto Lindo and Lisbon, Lisbon is from nowhere.
    assert value(found["names_unsupported"]) == pytest.approx(100 / 3)
    # "a": the, marigold, at, porto, lindo, all kept; "b": boat and white and a of 6.
    assert value(found["alt_words_kept"]) == pytest.approx(100 * (5 + 3) / (5 + 6))
    assert value(found["words"]) == pytest.approx((8 + 5 + 2 + 2) / 4)
    assert value(found["duplicates"]) == 50  # "c" and "d"
    # What the report calls better; longer captions, and more words of the alt-text, may be either.
    assert {key: metric.higher_is_better for key, metric in found.items()} == {  # type: ignore[union-attr]
        "words": None,
        "duplicates": False,
        "names_kept": True,
        "alt_words_kept": None,
        "names_unsupported": False,
    }


def test_every_name_of_an_image_without_alt_text_is_unsupported() -> None:
    captions = {"c": "A bird in Lisbon", "d": "A bird in Porto"}
    found = metrics(captions=captions, alts={"c": ()})  # of "d" it is not known
    assert found["names_unsupported"].images == ("c",)  # type: ignore[union-attr]
    assert value(found["names_unsupported"]) == 100


def test_names_may_come_from_references() -> None:
    found = metrics(references={"b": ("A boat in Lisbon",)})
    assert value(found["names_unsupported"]) == 0


def test_without_alt_texts() -> None:
    found = metrics(alts={})
    for key in ("names_kept", "alt_words_kept", "names_unsupported"):
        missing = found[key]
        assert isinstance(missing, Unavailable)
        assert "no alt-texts" in missing.reason or "neither" in missing.reason


def test_captions_without_a_name_leave_the_share_undefined() -> None:
    found = metrics(captions={"c": "a bird"}, alts={"c": ("a boat",)})
    estimate = found["names_unsupported"].estimate(Bootstrap())  # type: ignore[union-attr]
    assert estimate.to_dict() == {"value": None, "low": None, "high": None, "images": 0}
