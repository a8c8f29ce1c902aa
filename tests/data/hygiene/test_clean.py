"""What a captioner reads of alt-texts, and what rows say of it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from altogether_rt.data.alts import Alts
from altogether_rt.data.hygiene.boilerplate import (
    Boilerplate,
    BoilerplateCounter,
    find_boilerplate,
)
from altogether_rt.data.hygiene.clean import AltHygiene, HygieneOptions
from altogether_rt.data.sources.base import Sample

pytestmark = pytest.mark.lean

WORDS = ("boat", "bell", "fish", "key", "lamp", "flower", "tower", "bridge", "cat", "clock")


def shop_texts(num: int) -> list[str]:
    """Half of them end with the shop's name, a quarter begin with a category."""
    rng = random.Random(0)
    texts = []
    for number in range(num):
        text = f"{rng.choice(WORDS)} {number} in {rng.choice(WORDS)} blue"
        text = f"Sale: {text}" if number % 4 == 0 else text
        texts.append(f"{text} | Acme Shop – Free Shipping" if number % 2 else text)
    return texts


def test_what_ends_or_begins_many_texts_is_found() -> None:
    found = find_boilerplate(shop_texts(400))
    assert found.last == {"free shipping": 200}
    assert found.first == {"sale": 100}
    # Taken away part by part: behind one there may be another.
    counter = BoilerplateCounter()
    for text in (found.strip(text) for text in shop_texts(400)):
        counter.add(text)
    assert counter.found().last == {"acme shop": 200}
    assert found.examples() == ["'free shipping' (200 times)", "'sale' (100 times)"]


def test_stripping() -> None:
    boilerplate = Boilerplate(first={"sale": 1}, last={"free shipping": 1, "acme shop": 1})
    strip = boilerplate.strip
    assert strip("Sale: a boat | Acme Shop – Free Shipping!") == "a boat"
    assert strip("SALE: Sale: a boat") == "a boat"
    assert strip("a boat for sale: red") == "a boat for sale: red"
    assert strip("Acme Shop") == "Acme Shop"
    assert strip("Sale: Acme Shop – Free Shipping") == "Acme Shop"
    assert strip("a boat at Acme Shop") == "a boat at Acme Shop"
    assert strip("") == ""
    assert strip("Sale: " * 1000 + "a boat" + " | Acme Shop" * 1000) == "a boat"


def test_what_people_say_often_is_not_boilerplate() -> None:
    texts = [f"a photo of a {word} {number}" for number in range(50) for word in WORDS]
    assert not find_boilerplate(texts)
    assert not find_boilerplate(["a dog"] * 1000)  # not divided
    assert not find_boilerplate(["Paris - the tower"] * 1000)  # one text, many times
    assert not find_boilerplate(f"{word} | Acme" for word in WORDS)  # too few
    rare = [f"boat {number} | Shop {number}" for number in range(1000)]
    assert not find_boilerplate([*rare, *(f"bell {n} | Acme" for n in range(40))])  # 3.8 %


def test_memory_is_bounded() -> None:
    counter = BoilerplateCounter()
    for number in range(60_000):
        counter.add(f"boat {number} | shop {number}")
        if number % 10 == 0:
            counter.add(f"bell {number} | Acme")
    assert counter.found().last["acme"] > 5000


def test_nothing_changes_without_options() -> None:
    hygiene = AltHygiene(HygieneOptions())
    samples = [
        Sample("a", Alts(("IMG_1234.JPG", "Tom &amp; Jerry")), Path("a")),
        Sample("b", Alts(), Path("b")),
    ]
    assert [id(s) for s in hygiene.samples(samples)] == [id(s) for s in samples]
    assert hygiene.counts.to_dict() == {
        "alts_noise": {"camera": {"count": 1, "examples": ["IMG_1234.JPG"]}},
        "alts_unescaped": 0,
        "alts_with_boilerplate": {"count": 0, "parts": []},
        "alt_languages": {},
    }
    assert hygiene.options.names == ()


def test_a_row_keeps_what_is_not_read() -> None:
    options = HygieneOptions(unescape=True, drop_noise=True, drop_boilerplate=True)
    boilerplate = Boilerplate(first={}, last={"acme": 30})
    given = ("IMG_1234.JPG", "Tom &amp; Jerry | Acme", "a boat")
    cleaned = AltHygiene(options, boilerplate).clean(Alts(given, truncated=True))
    assert cleaned.texts == given and cleaned.truncated
    assert cleaned.read == cleaned.used == ("Tom & Jerry", "a boat")
    assert cleaned.notes == ("camera", "entities boilerplate", "")
    assert options.names == ("unescape", "drop_noise", "drop_boilerplate")


def test_all_alts_may_be_noise() -> None:
    cleaned = AltHygiene(HygieneOptions(drop_noise=True)).clean(Alts(("image",)))
    assert cleaned.read == ()
    assert cleaned.texts == ("image",) and cleaned.notes == ("placeholder",)
