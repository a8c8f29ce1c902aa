"""Captions as the alt-text of a page: one short sentence, cut where that makes sense."""

from __future__ import annotations

import random
import unicodedata

import pytest

from altogether_rt.wording.alt_style import MAX_PAGE_ALT_CHARS, page_alt

pytestmark = pytest.mark.lean


@pytest.mark.parametrize(
    ("caption", "alt", "shortened"),
    [
        ("A dog on grass.", "A dog on grass.", ""),
        ("A picture of a dog on grass.", "A dog on grass.", ""),
        ("The image shows a picture of a dog.", "A dog.", ""),
        ("This is a photo of Graio, a boat.", "Graio, a boat.", ""),
        ("In this image, we can see two dogs.", "Two dogs.", ""),
        ("photo of a dog", "A dog", ""),
        ("a pictured dog", "a pictured dog", ""),
        ("A picture of", "A picture of", ""),
        ("A painting of a dog.", "A painting of a dog.", ""),  # that says something
        ("A dog. It runs.", "A dog.", "sentence"),
        ("St. Mark's Basilica in Venice. It is old.", "St. Mark's Basilica in Venice.", "sentence"),
        ("  A\ndog  ", "A dog", ""),
        ("", "", ""),
        (
            # 61 characters to the first comma, 97 to the second, 142 in all
            "A weathered blue fishing boat named Marigold rests on the sand, beside two folded nets"
            " and a buoy, below a long white lighthouse on its rocky head.",
            "A weathered blue fishing boat named Marigold rests on the sand, beside two folded nets"
            " and a buoy.",
            "clause",
        ),
        ("a " * 80, ("a " * 62).rstrip() + "…", "word"),  # 62 times two, less a space: 123, and …
        ("Boat, " + "a " * 80, "Boat, " + ("a " * 59).rstrip() + "…", "word"),
        ("x" * 126, "x" * 124 + "…", "word"),
        ("x" * 125, "x" * 125, ""),
        ("黑" * 60 + "，" + "猫" * 70, "黑" * 60 + "。", "clause"),
        ("黑" * 130 + "。", "黑" * 124 + "…", "word"),
    ],
)
def test_alt_texts_by_hand(caption: str, alt: str, shortened: str) -> None:
    assert page_alt(caption) == (alt, shortened)
    assert len(alt) <= MAX_PAGE_ALT_CHARS == 125


def test_a_character_keeps_its_marks() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # one character on a screen
    for marked in ("e\u0301", "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "की", family):
        for shift in range(len(marked) + 1):
            text, shortened = page_alt("x" * shift + marked * 130)
            assert shortened == "word"
            assert len(text) <= 125
            kept = text[shift:-1]
            assert kept == marked * (len(kept) // len(marked))


def test_nothing_is_longer_and_everything_cut_is_marked() -> None:
    rng = random.Random(4)
    alphabet = "ab ,.;:!?\"'-–—…。，\u0301\u200d\ufe0f黑é\U0001f468\t\n A picture of "
    for _ in range(5000):
        caption = "".join(rng.choices(alphabet, k=rng.randrange(400)))
        text, shortened = page_alt(caption)
        assert len(text) <= 125
        plain = " ".join(caption.split())
        if not shortened:
            assert plain.casefold().endswith(text.casefold())
        assert page_alt(text)[1] in ("", "sentence")
        assert unicodedata.normalize("NFC", text) or not plain
