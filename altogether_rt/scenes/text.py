"""Alt-texts as the web might have them for a scene, its facts, and rounds that re-align the two.

The first round is the alt-text, which is all that its author cared to write: names that no image
shows, some facts, some of them wrong, dates and file names. The last round is the caption that a
careful annotator would arrive at.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from altogether_rt.scenes import names
from altogether_rt.scenes.scene import Group, Scene, sample_scene
from altogether_rt.scenes.world import (
    BACKGROUNDS,
    COLOURS,
    COUNT_WORDS,
    KINDS,
    group_phrase,
)

__all__ = ["Sample", "Wrong", "make_sample", "make_scene"]


@dataclass(frozen=True)
class Wrong:
    """One claim of an alt-text that the image contradicts."""

    type: str  # colour | count | kind | background
    group: int  # index into the scene's groups; -1 for the background
    said: str
    true: str


@dataclass(frozen=True)
class Sample:
    """A scene with its alt-texts, annotation rounds and facts."""

    scene: Scene
    alts: tuple[str, ...]
    rounds: tuple[str, ...]  # the first is the alt-text, the last the caption
    names: tuple[str, ...]  # what only the alt-texts know, as written there
    wrong: tuple[Wrong, ...] = ()

    @property
    def caption(self) -> str:
        return self.rounds[-1]

    @property
    def visual_caption(self) -> str:
        """The caption by someone who sees the image and knows no names."""
        return _caption(self.scene, _Names())

    def facts(self) -> dict[str, Any]:
        """The facts that a caption can be scored on, as plain data."""
        groups = [
            {"kind": g.kind, "colour": g.colour, "count": g.count, "size": g.size}
            for g in self.scene.groups
        ]
        return {
            "groups": groups,
            "relation": self.scene.relation,
            "background": self.scene.background,
            "names": list(self.names),
            "wrong": [vars(w) for w in self.wrong],
        }


@dataclass(frozen=True)
class _Names:
    thing: str = ""  # of the subject, which is then a single object
    place: str = ""
    person: str = ""

    def all(self) -> tuple[str, ...]:
        return tuple(name for name in (self.thing, self.place, self.person) if name)


@dataclass(frozen=True)
class _Claims:
    """What an alt-text says about the image: some facts, some of them wrong, most left out."""

    groups: tuple[
        tuple[int, str, str], ...
    ]  # (count, colour, kind); 0 and "" stand for facts left out
    background: str
    wrong: tuple[Wrong, ...] = field(default=())


def _caption(scene: Scene, known: _Names) -> str:
    subject = scene.groups[0].phrase
    if known.thing:
        subject = f"{known.thing}, {subject},"
    parts = [subject]
    if scene.relation:
        parts += [scene.relation, scene.groups[1].phrase]
    parts.append(BACKGROUNDS[scene.background])
    text = f"A picture of {' '.join(parts)}"
    if known.place:
        text += f", taken at {known.place}"
    if known.person:
        text += f", by {known.person}"
    return text + "."


def _sample_names(rng: random.Random, scene: Scene, split: names.Split) -> _Names:
    thing = place = person = ""
    if scene.groups[0].count == 1 and rng.random() < 0.5:
        thing = names.stem(rng, split)
    if rng.random() < 0.45:
        place = names.place(rng, split)
    if rng.random() < 0.15:
        person = names.person(rng, split)
    return _Names(thing, place, person)


def _other(rng: random.Random, options: tuple[Any, ...], *not_these: Any) -> Any:
    return rng.choice([option for option in options if option not in not_these])


def _falsify(rng: random.Random, scene: Scene, known: _Names, claims: _Claims) -> _Claims:
    """Make one of the claims wrong, adding it if it was left out."""
    index = rng.randrange(len(claims.groups))
    group = scene.groups[index]
    count, colour, kind = claims.groups[index]
    # A named thing keeps its count: "Biscuit" is a single one.
    named = bool(known.thing) and index == 0
    type_ = rng.choice(("colour", "colour", "kind", "background") + (() if named else ("count",)))
    if type_ == "background":
        said = _other(rng, tuple(BACKGROUNDS), scene.background)
        wrong = Wrong("background", -1, said, scene.background)
        return replace(claims, background=said, wrong=(wrong,))
    if type_ == "colour":
        colour = _other(rng, tuple(COLOURS), *(g.colour for g in scene.groups))
        wrong = Wrong("colour", index, colour, group.colour)
    elif type_ == "kind":
        kind = _other(rng, KINDS, *(g.kind for g in scene.groups))
        wrong = Wrong("kind", index, kind, group.kind)
    else:
        count = _other(rng, tuple(COUNT_WORDS), group.count)
        wrong = Wrong("count", index, COUNT_WORDS[count], COUNT_WORDS[group.count])
    groups = list(claims.groups)
    groups[index] = (count, colour, kind)
    return replace(claims, groups=tuple(groups), wrong=(wrong,))


def _claim(rng: random.Random, group: Group) -> tuple[int, str, str]:
    count = group.count if rng.random() < 0.7 else 0
    if count == 0 and group.count > 1:
        count = group.count  # a bare "boats" would be one more noun form to learn
    return count, group.colour if rng.random() < 0.45 else "", group.kind


def _sample_claims(rng: random.Random, scene: Scene, known: _Names) -> _Claims:
    num_mentioned = rng.choice((1, 1, len(scene.groups)))
    claims = _Claims(
        tuple(_claim(rng, group) for group in scene.groups[:num_mentioned]),
        scene.background if rng.random() < 0.25 else "",
    )
    return _falsify(rng, scene, known, claims) if rng.random() < 0.45 else claims


_FILE_NAMES = ("IMG_{:04d}.jpg", "DSC{:05d}.JPG", "P10{:05d}", "image{}.png", "photo-{}")


def _noise(rng: random.Random) -> str:
    year, month, day = rng.randrange(1999, 2025), rng.randrange(1, 13), rng.randrange(1, 29)
    kind = rng.randrange(4)
    if kind == 0:
        return f"{day:02d}/{month:02d}/{year}"
    if kind == 1:
        return f"{year}-{month:02d}-{day:02d}"
    if kind == 2:
        return rng.choice(("| my photos", "- stock photo", "(free download)", "- click to enlarge"))
    return rng.choice(_FILE_NAMES).format(rng.randrange(10000))


def _say_names(rng: random.Random, known: _Names, claims: _Claims) -> str:
    """The alt-text without noise."""
    phrases = [group_phrase(count, colour, kind) for count, colour, kind in claims.groups]
    if known.thing:
        _, colour, kind = claims.groups[0]
        noun = f"{colour} {kind}".strip()
        phrases[0] = rng.choice(
            (f"{known.thing} the {noun}", f"our {noun} {known.thing}", f"{known.thing}, my {noun}")
            if kind
            else (known.thing,)
        )
    text = rng.choice((" and ", " with ")).join(phrases)
    if claims.background:
        text += f" {BACKGROUNDS[claims.background]}"
    if known.place:
        text += rng.choice((" at {}", ", {}", " in {}", " - {}")).format(known.place)
    if known.person:
        text += rng.choice((" by {}", " (photo: {})", ", photo by {}")).format(known.person)
    return text


def _write_alt(rng: random.Random, known: _Names, claims: _Claims) -> str:
    text = _say_names(rng, known, claims)
    if rng.random() < 0.3:
        text = f"{text} {_noise(rng)}" if rng.random() < 0.7 else f"{_noise(rng)} {text}"
    if rng.random() < 0.2:
        text = text[0].upper() + text[1:]
    return text


def make_scene(seed: int, index: int, split: names.Split = "train") -> Scene:
    """The scene of a seed and an index: the same on every machine."""
    return sample_scene(random.Random(f"scenes/{split}/{seed}/{index}/scene"))


def make_sample(
    seed: int,
    index: int,
    split: names.Split = "train",
    *,
    scene: Scene | None = None,
    page: int = 0,
) -> Sample:
    """The sample of a seed and an index: the same on every machine.

    page: number of the web page that shows the image; each has its own alt-texts and names.
    """
    scene = scene or make_scene(seed, index, split)
    rng = random.Random(f"scenes/{split}/{seed}/{index}/page/{page}")
    known = _sample_names(rng, scene, split)
    kind = rng.random()
    if kind < 0.12:  # no alt-text, or one that says nothing
        alts: tuple[str, ...] = ("",) if kind < 0.08 else (_noise(rng),)
        caption = _caption(scene, _Names())
        return Sample(scene, alts, (alts[0], caption), ())
    claims = _sample_claims(rng, scene, known)
    alts = (_write_alt(rng, known, claims),)
    if rng.random() < 0.2:  # a second alt-text of the same page: says less and never contradicts
        alts = (*alts, known.place if known.place and rng.random() < 0.5 else _noise(rng))
    caption = _caption(scene, known)
    middle = _caption(Scene(scene.groups[:1], "", scene.background, scene.seed), known)
    rounds = (" ".join(alts), middle, caption) if scene.relation else (" ".join(alts), caption)
    return Sample(scene, alts, rounds, known.all(), claims.wrong)
