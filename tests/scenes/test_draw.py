"""Pictures show what the scene says."""

from __future__ import annotations

import random

import numpy as np

from altogether_rt.scenes.draw import render
from altogether_rt.scenes.scene import (
    FACT_CLASSES,
    Group,
    Placement,
    Scene,
    fact_labels,
    sample_scene,
)
from altogether_rt.scenes.world import BACKGROUNDS, COLOURS, KINDS


def _single(kind: str, colour: str, background: str = "desert") -> Scene:
    placement = Placement(0.5, 0.5, 0.3)
    return Scene((Group(kind, colour, 1, "large", (placement,)),), "", background, 1)


def test_rendering_is_deterministic_and_has_the_size_asked_for() -> None:
    scene = sample_scene(random.Random(1))
    first, second = render(scene, 128), render(scene, 128)
    assert first.size == (128, 128) and first.mode == "RGB"
    assert np.array_equal(np.asarray(first), np.asarray(second))


def test_every_kind_draws_its_own_picture_in_its_colour() -> None:
    pictures = {kind: np.asarray(render(_single(kind, "blue"), 64)) for kind in KINDS}
    assert len({picture.tobytes() for picture in pictures.values()}) == len(KINDS)
    for kind, picture in pictures.items():
        distance = np.abs(picture.astype(int) - COLOURS["blue"]).sum(axis=-1)
        assert (distance < 60).sum() > 20, f"{kind} shows hardly any blue"


def test_every_background_differs() -> None:
    pictures = {render(_single("ball", "red", b), 64).tobytes() for b in BACKGROUNDS}
    assert len(pictures) == len(BACKGROUNDS)


def test_fact_labels_are_within_their_classes() -> None:
    for seed in range(300):
        labels = fact_labels(sample_scene(random.Random(seed)))
        assert len(labels) == len(FACT_CLASSES)
        assert all(0 <= label < n for label, n in zip(labels, FACT_CLASSES, strict=True))


def test_objects_stay_inside_and_groups_keep_their_relation() -> None:
    for seed in range(300):
        scene = sample_scene(random.Random(seed))
        for group in scene.groups:
            assert len(group.placements) == group.count
            for p in group.placements:
                assert p.radius <= p.x <= 1 - p.radius and p.radius <= p.y <= 1 - p.radius
        if scene.relation == "to the left of":
            first, second = (np.mean([p.x for p in g.placements]) for g in scene.groups)
            assert first < second
        if scene.relation == "below":
            first, second = (np.mean([p.y for p in g.placements]) for g in scene.groups)
            assert first > second
