"""What the checks of a caption say: figures worked out beside each text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.wording.checks import CHECK_FLAGS, CaptionChecker

pytestmark = pytest.mark.lean

CHECKER = CaptionChecker(["Rewrite this for the Marigold Museum of 1999."])


@pytest.mark.parametrize(
    ("caption", "alts", "checks"),
    [
        (
            "A blue boat named Marigold in Porto Lindo.",
            ["our boat Marigold", "Porto Lindo, summer"],
            # boat, marigold, porto, lindo of five; the first words of a text are no name
            # unless two have capitals
            {"alt_words": [4, 5], "alt_names": [2, 2], "flags": []},
        ),
        (
            "A dog runs in Paris in 1998, at 12:30, with 3 others.",
            ["my dog in Lindo"],
            {
                "alt_words": [1, 2],
                "alt_names": [0, 1],
                "new_names": ["Paris"],
                "new_numbers": ["1998", "12:30"],  # three can be counted
                "flags": ["new_names"],
            },
        ),
        (
            "A dog in paris.",
            ["a view, PARIS"],
            {"alt_words": [1, 2], "alt_names": [1, 1], "flags": []},
        ),
        ("A dog at the Museum in 1999.", [], {"flags": []}),  # the prompt has them
        ("A cat.", ["a dog on grass"], {"alt_words": [0, 2], "flags": ["alt_unused"]}),
        ("A cat.", ["the"], {"flags": []}),
        ('A sign says "Visit Rome 2020".', [], {"flags": []}),  # the image may show it
        ("", ["x"], {"alt_words": [0, 1], "flags": ["alt_unused"]}),
    ],
)
def test_words_kept_and_added(caption: str, alts: list[str], checks: dict[str, Any]) -> None:
    assert CHECKER.check(caption, alts) == checks


@pytest.mark.parametrize(
    ("flag", "caption"),
    [
        ("refusal", "I'm sorry, but this cannot be described."),
        ("refusal", "I’m sorry."),
        ("refusal", "Unfortunately I cannot see the image."),
        ("refusal", "I can't help with that."),
        ("refusal", "Written as an artificial intelligence."),
        ("refusal", "As a language model I only write."),
        ("refusal", "I am unable to view it."),
        ("preamble", "Sure, here is a description: a dog."),
        ("preamble", "Certainly! A dog."),
        ("preamble", "The image depicts a dog."),
        ("preamble", "This photograph shows a dog."),
        ("preamble", "In this image, a dog runs."),
        ("preamble", "Here's the revised alt-text: a dog"),
        ("preamble", "**Caption:** a dog"),
        ("preamble", "Improved description: a dog"),
        ("preamble", "Assistant: a dog"),
        ("loop", "A dog runs. A dog runs. A dog runs."),
        ("loop", "a red dog and a red dog and a red dog and a cat"),
        ("loop", "no no no no no no"),
        ("loop", "It is a dog here. A cat sleeps. It is a dog here."),
    ],
)
def test_flags(flag: str, caption: str) -> None:
    assert flag in CHECK_FLAGS
    assert CHECKER.check(caption, [])["flags"] == [flag]


@pytest.mark.parametrize(
    "caption",
    [
        "A picture of a dog.",
        "A sure-footed goat on an image of the sun.",
        "Here are two dogs.",
        'A card that says "I\'m sorry, I cannot see you".',
        "A dog and a dog and a cat.",
        "no no no",
        "A dog. A dog.",
        "A chair, a table, a chair, a lamp, a chair, and a bed.",
        "The scene is lit by a lamp.",
    ],
)
def test_captions_that_are_as_they_should_be(caption: str) -> None:
    assert CHECKER.check(caption, [])["flags"] == []


@pytest.mark.parametrize(
    ("caption", "alts", "echoes"),
    [
        ("The author says it is as follows: a dog.", [], True),
        ("A dog. Keep the names and other facts, and add.", [], True),
        ("keep the NAMES and other facts", [], True),
        ("Keep the names and other dogs.", [], False),  # five words
        ("Keep the names and other facts", ["Keep the names and other facts"], False),
        ("A dog.", [], False),
    ],
)
def test_words_of_the_prompt_come_back(caption: str, alts: list[str], echoes: bool) -> None:
    checker = CaptionChecker(["The author says it is as", "\nKeep the names and other facts."])
    assert ("prompt_echo" in checker.check(caption, alts)["flags"]) == echoes
    assert "prompt_echo" not in CaptionChecker().check(caption, alts)["flags"]


def test_a_caption_that_was_ended_as_a_loop_is_one() -> None:
    assert CHECKER.check("A dog.", [], "loop")["flags"] == ["loop"]


def test_what_is_listed_is_bounded() -> None:
    many = ", and ".join(f"a dog in Q{chr(97 + i)}{'x' * 200}" for i in range(20))
    names = CHECKER.check(many, [])["new_names"]
    assert len(names) == 8
    assert all(len(name) == 80 for name in names)


@pytest.mark.parametrize("length", [10_000, 100_000])
def test_long_and_odd_texts_are_checked(length: int) -> None:
    """Nothing that a captioner or a web page may write raises, or takes long."""
    for unit in ("A", "a ", "A b ", '"', "1,", ".", "x-", "\u0301", "黑", "\u200d", "I am as an "):
        CHECKER.check(unit * (length // len(unit)), [unit * 8000])


def test_what_people_wrote_of_photographs_is_rarely_marked(shared_data: Path) -> None:
    """COCO's captions, each checked with another of the same image as its alt-text."""
    captions: dict[int, list[str]] = {}
    path = shared_data / "captions" / "captions_val2017_textonly.json"
    for annotation in json.loads(path.read_text())["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    assert len(captions) == 5000
    counts = dict.fromkeys(CHECK_FLAGS, 0)
    for texts in captions.values():
        for flag in CHECKER.check(texts[0], texts[1:2])["flags"]:
            counts[flag] += 1
    assert counts["refusal"] == 1  # "I am unable to see an image above."
    assert counts["preamble"] == counts["loop"] == 0
    assert counts["new_names"] < 0.03 * len(captions)  # makes and peoples: Yamaha, Mexican
    assert counts["alt_unused"] < 0.12 * len(captions)  # two people chose other words
