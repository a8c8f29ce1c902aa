"""What a scene shows: groups of objects, their relation, the background."""

from __future__ import annotations

import random
from dataclasses import dataclass

from altogether_rt.scenes.world import (
    BACKGROUNDS,
    COLOURS,
    COUNT_WORDS,
    KINDS,
    RELATIONS,
    SIZES,
    group_phrase,
)

__all__ = ["FACT_CLASSES", "Group", "Placement", "Scene", "fact_labels", "sample_scene"]


@dataclass(frozen=True)
class Placement:
    """Position of one object: centre and half-size as fractions of the image's side."""

    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Group:
    """Objects of one kind and colour, close together."""

    kind: str
    colour: str
    count: int
    size: str  # "small" or "large" for a single object, "" for several
    placements: tuple[Placement, ...]

    @property
    def phrase(self) -> str:
        return group_phrase(self.count, self.colour, self.kind, self.size)


@dataclass(frozen=True)
class Scene:
    """One or two groups on a background. The first group is the subject of a description."""

    groups: tuple[Group, ...]
    relation: str  # of the first group to the second; "" for one group
    background: str
    seed: int  # of the details that no fact depends on: waves, stars, bricks

    def described_from(self, subject: int) -> Scene:
        """The same scene with another group as subject."""
        if subject == 0:
            return self
        first, second = self.groups
        return Scene((second, first), RELATIONS[self.relation], self.background, self.seed)


# Offsets of the objects of a group in its half (or the whole) of the image, in units of the
# half's short side, and the objects' half-size in the same unit.
_ARRANGEMENTS: dict[int, tuple[tuple[tuple[float, float], ...], ...]] = {
    1: (((0.0, 0.0),),),
    2: (((0.0, -0.5), (0.0, 0.5)), ((-0.22, -0.48), (0.22, 0.48))),
    3: (((-0.23, -0.5), (0.25, 0.0), (-0.23, 0.5)), ((0.23, -0.5), (-0.25, 0.0), (0.23, 0.5))),
    4: (((-0.25, -0.3), (0.25, -0.3), (-0.25, 0.3), (0.25, 0.3)),),
}
_RADIUS = {"large": 0.42, "small": 0.22}
_GROUP_RADIUS = {2: 0.3, 3: 0.25, 4: 0.22}
_JITTER = 0.05


def _place_group(
    rng: random.Random, count: int, size: str, centre: tuple[float, float], across: bool
) -> tuple[Placement, ...]:
    """Arrange a group in a half of the image; across: the half is wider than it is high."""
    half = 0.5
    radius = (_RADIUS[size] if size else _GROUP_RADIUS[count]) * half * rng.uniform(0.93, 1.07)
    shift_x, shift_y = (rng.uniform(-_JITTER, _JITTER) for _ in range(2))
    placements = []
    for dx, dy in rng.choice(_ARRANGEMENTS[count]):
        if across:
            dx, dy = dy, dx
        x = centre[0] + shift_x + dx * half + rng.uniform(-_JITTER, _JITTER) / 3
        y = centre[1] + shift_y + dy * half + rng.uniform(-_JITTER, _JITTER) / 3
        low, high = radius * 1.02, 1 - radius * 1.02
        placements.append(Placement(min(max(x, low), high), min(max(y, low), high), radius))
    return tuple(placements)


def sample_scene(rng: random.Random) -> Scene:
    """Sample a scene. Its subject is the smaller group; of equal ones, the left or upper one."""
    num_groups = 1 if rng.random() < 0.3 else 2
    kinds = rng.sample(KINDS, num_groups)
    counts = [rng.choice((1, 1, 1, 2, 3, 4)) for _ in kinds]
    sizes = [rng.choice(SIZES) if count == 1 else "" for count in counts]
    colours = [rng.choice(tuple(COLOURS)) for _ in kinds]
    background = rng.choice(tuple(BACKGROUNDS))
    side_by_side = rng.random() < 0.5
    if num_groups == 1:
        centres = [(0.5 + rng.uniform(-0.12, 0.12), 0.5 + rng.uniform(-0.08, 0.08))]
    elif side_by_side:
        centres = [(0.25, 0.5 + rng.uniform(-0.06, 0.06)), (0.75, 0.5 + rng.uniform(-0.06, 0.06))]
    else:
        centres = [(0.5 + rng.uniform(-0.06, 0.06), 0.25), (0.5 + rng.uniform(-0.06, 0.06), 0.75)]
    groups = tuple(
        Group(
            kind,
            colour,
            count,
            size,
            _place_group(rng, count, size, centre, across=not side_by_side),
        )
        for kind, colour, count, size, centre in zip(
            kinds, colours, counts, sizes, centres, strict=True
        )
    )
    relation = "" if num_groups == 1 else ("to the left of" if side_by_side else "above")
    scene = Scene(groups, relation, background, rng.randrange(2**31))
    return scene.described_from(1 if counts[-1] < counts[0] else 0)


#: Classes of each label of `fact_labels`: background, relation, then for both groups kind, colour,
#: count and size. The last class of all but the background is "none".
FACT_CLASSES: tuple[int, ...] = (
    len(BACKGROUNDS),
    len(RELATIONS) + 1,
    *(2 * (len(KINDS) + 1, len(COLOURS) + 1, len(COUNT_WORDS) + 1, len(SIZES) + 1)),
)


def fact_labels(scene: Scene) -> list[int]:
    """The visible facts, one class each, in the order of `FACT_CLASSES`."""
    labels = [
        list(BACKGROUNDS).index(scene.background),
        list(RELATIONS).index(scene.relation) if scene.relation else len(RELATIONS),
    ]
    for group in scene.groups:
        labels += [
            KINDS.index(group.kind),
            list(COLOURS).index(group.colour),
            group.count - 1,
            SIZES.index(group.size) if group.size else len(SIZES),
        ]
    if len(scene.groups) == 1:
        labels += [len(KINDS), len(COLOURS), len(COUNT_WORDS), len(SIZES)]
    return labels
