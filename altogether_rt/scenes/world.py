"""The vocabulary of scenes: what can be visible, and the words for it."""

from __future__ import annotations

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "COUNT_WORDS",
    "KINDS",
    "RELATIONS",
    "SIZES",
    "group_phrase",
    "plural",
]

KINDS: tuple[str, ...] = (
    "ball", "balloon", "bell", "bird", "boat", "box", "butterfly", "car", "cup", "fish", "flower",
    "hat", "heart", "house", "key", "kite", "lamp", "moon", "mushroom", "ring", "star", "tower",
    "tree", "umbrella",
)  # fmt: skip
_IRREGULAR_PLURALS = {"box": "boxes", "butterfly": "butterflies", "fish": "fish"}

#: Colour word → RGB.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (245, 130, 20),
    "yellow": (250, 220, 40),
    "green": (40, 150, 60),
    "blue": (35, 85, 210),
    "purple": (130, 50, 170),
    "pink": (250, 140, 190),
    "brown": (120, 72, 36),
    "black": (25, 25, 28),
    "white": (250, 250, 250),
}

#: Background → the phrase that ends a description of it.
BACKGROUNDS: dict[str, str] = {
    "sea": "on the sea",
    "meadow": "in a meadow",
    "desert": "in the desert",
    "night": "at night",
    "snow": "in the snow",
    "wall": "in front of a brick wall",
    "sunset": "at sunset",
    "room": "in a room",
}

COUNT_WORDS: dict[int, str] = {1: "a", 2: "two", 3: "three", 4: "four"}
SIZES: tuple[str, ...] = ("small", "large")

#: Relation of the first group to the second → its opposite.
RELATIONS: dict[str, str] = {
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "above": "below",
    "below": "above",
}


def plural(kind: str) -> str:
    """The plural of a kind's word."""
    return _IRREGULAR_PLURALS.get(kind, kind + "s")


def group_phrase(count: int, colour: str, kind: str, size: str = "") -> str:
    """`a large red boat`, `three green trees`; empty strings and count 0 are left out."""
    noun = kind if count <= 1 else plural(kind)
    words = [COUNT_WORDS.get(count, ""), size, colour, noun]
    phrase = " ".join(word for word in words if word)
    if phrase.startswith("a ") and phrase[2] in "aeiou":
        phrase = "an" + phrase[1:]
    return phrase
