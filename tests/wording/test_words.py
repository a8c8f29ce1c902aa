"""Sentences, words and names, by rules that hold in many languages."""

from __future__ import annotations

import pytest

from altogether_rt.wording.words import read_wording, sentence_ends

pytestmark = pytest.mark.lean


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("our boat Marigold at Porto Lindo, summer", ["Marigold", "Porto Lindo"]),
        ("Marigold at sunset", []),  # every sentence begins with a capital
        ("Porto Lindo at sunset", ["Porto Lindo"]),
        ("A dog. Rex runs. We saw Rex.", ["Rex"]),
        ("Ana's dog Rex's bowl in Ana's house", ["Rex", "Ana"]),
        (
            "two views of Mt. Fuji, and one of St. Mark's Basilica",
            ["Mt Fuji", "St Mark", "Basilica"],
        ),
        ("the house of J. Smith", ["J Smith"]),
        ("White Fish Over The Golden Gate Bridge", []),  # a title
        ("WHITE FISH ON A RED TABLE NEAR LONDON", []),
        ("a fish, IMG_0042 and P1006040", []),
        ('a sign that says "Stop Here" in Lindo', ["Lindo"]),
        ("ein Hund auf der Straße und ein Haus in Berlin", []),  # nouns have capitals
        ("un chien à Besançon avec Zoé", ["Besançon", "Zoé"]),
        ("собака в Москве", ["Москве"]),
        ("نخلة في دبي", []),  # no capitals
        ("黑猫在北京", []),
        ("", []),
    ],
)
def test_names(text: str, names: list[str]) -> None:
    assert [name.text for name in read_wording(text).names] == names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The boats of a boat", {"boat"}),
        ("Ana's picture of the class", {"ana", "clas"}),  # compared with itself only
        ("Straße und STRASSE", {"strasse", "und"}),
        ("cafe\u0301 Caf\u00e9", {"café"}),
        ("a well-known rock'n'roll place", {"well-known", "rock'n'roll", "place"}),
        ("黑猫坐", {"黑猫", "猫坐"}),
        ("猫", {"猫"}),
        ("नाव मैरीगोल्ड", {"नाव", "मैरीगोल्ड"}),  # not taken apart at vowel signs
        ("in 2014, 1,200 m", {"2014", "1,200", "m"}),
        ("\u0661\u0669 boats", {"19", "boat"}),  # digits of Arabic
        ("<|im_end|> \x00 __", {"im_end"}),
    ],
)
def test_words(text: str, words: set[str]) -> None:
    assert read_wording(text).words == words


def test_numbers() -> None:
    found = read_wording('1,200 boats in 1998 at 12:30, "77" on a sail, 3/4 full, 50mm')
    assert list(found.numbers.values()) == ["1,200", "1998", "12:30", "3/4", "50mm"]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("A dog. A cat!  A bird", ["A dog.", "A cat!"]),
        ("Dr. No and J. Smith at 3.5 m. It rains.", ["Dr. No and J. Smith at 3.5 m.", "It rains."]),
        ('He says "Go." She goes.', ['He says "Go."', "She goes."]),
        ("A dog at 5 p.m. in the park.", ["A dog at 5 p.m. in the park."]),
        ("Rooms no.", ["Rooms no."]),  # nothing follows the abbreviation
        ("黑猫。白猫！", ["黑猫。", "白猫！"]),
        ("So... it ends… Here.", ["So... it ends…", "Here."]),
        ("no end", []),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    found, start = [], 0
    for end in sentence_ends(text):
        found.append(text[start:end].strip())
        start = end
    assert found == sentences
