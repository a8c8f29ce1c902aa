"""Evaluation of a CLIP on held-out scenes: zero-shot classification and retrieval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from altogether_rt.scenes.draw import render
from altogether_rt.scenes.text import Sample, make_sample
from altogether_rt.scenes.world import COLOURS, KINDS, plural
from studies.clip import Clip, Images

__all__ = ["CLASSES", "HeldOut", "evaluate", "make_held_out", "recall", "right_classes"]

#: Every kind in every colour.
CLASSES = tuple((kind, colour) for kind in KINDS for colour in COLOURS)

#: Descriptions of a class. Its embedding is the mean over these, as in CLIP's own evaluation. Some
#: are worded as alt-texts, some as captions.
TEMPLATES = ("{one}", "a {one}", "two {many}", "three {many}", "a photo of a {one}.")


@dataclass(frozen=True)
class HeldOut:
    """Scenes of the `test` split; neither they nor their names occur in training."""

    single: Images  # M scenes with one group
    classes: NDArray[np.int64]  # (M,), their rows of CLASSES
    scenes: Images  # N scenes of any kind
    captions: Sequence[str]  # the caption of an annotator who knows no names, one a scene
    alts: Sequence[str]  # the alt-texts of a scene, joined


def make_held_out(prepare: Callable[[Sequence[Image]], Images], num: int, seed: int) -> HeldOut:
    """`num` scenes with one group, and `num` others of any kind that have an alt-text.

    prepare: turns pictures into the images that the CLIP reads.
    """
    single: list[Sample] = []
    scenes: list[Sample] = []
    index = 0
    while len(single) < num or len(scenes) < num:
        sample = make_sample(seed, index, "test")
        index += 1
        if len(sample.scene.groups) == 1 and len(single) < num and len(scenes) >= num:
            single.append(sample)
        elif sample.alts[0] and len(scenes) < num:
            scenes.append(sample)
    groups = [sample.scene.groups[0] for sample in single]
    return HeldOut(
        prepare([render(sample.scene) for sample in single]),
        np.array([CLASSES.index((group.kind, group.colour)) for group in groups], np.int64),
        prepare([render(sample.scene) for sample in scenes]),
        [sample.visual_caption for sample in scenes],
        [" ".join(sample.alts) for sample in scenes],
    )


def evaluate(clip: Clip, held_out: HeldOut) -> dict[str, float]:
    """Shares from 0 to 1, by name."""
    both, kind, colour = right_classes(
        clip.embed_images(held_out.single) @ _class_embeddings(clip).T,
        held_out.classes,
    )
    figures = {"zero_shot": both, "zero_shot_kind": kind, "zero_shot_colour": colour}
    images = clip.embed_images(held_out.scenes)
    for name, texts in (("caption", held_out.captions), ("alt", held_out.alts)):
        similarity = images @ clip.embed_texts(texts).T  # (images, texts)
        for top in (1, 5):
            figures[f"image_to_{name}_r{top}"] = recall(similarity, texts, top)
            figures[f"{name}_to_image_r{top}"] = recall(similarity.T, texts, top)
    return figures


def _class_embeddings(clip: Clip) -> NDArray[np.float32]:
    """(classes, E), the mean over TEMPLATES."""
    texts = [
        template.format(one=f"{colour} {kind}", many=f"{colour} {plural(kind)}")
        for kind, colour in CLASSES
        for template in TEMPLATES
    ]
    embeddings = clip.embed_texts(texts).reshape(len(CLASSES), len(TEMPLATES), -1).mean(1)
    normalised: NDArray[np.float32] = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return normalised


def right_classes(
    similarity: NDArray[np.float32], classes: NDArray[np.int64]
) -> tuple[float, float, float]:
    """Shares of images whose most similar class has the right kind and colour, kind, colour."""
    found = similarity.argmax(1)
    kind = found // len(COLOURS) == classes // len(COLOURS)
    colour = found % len(COLOURS) == classes % len(COLOURS)
    return float((kind & colour).mean()), float(kind.mean()), float(colour.mean())


def recall(similarity: NDArray[np.float32], texts: Sequence[str], top: int) -> float:
    """Share of rows that have a right column among the `top` most similar.

    Row and column i belong together, and so do rows and columns whose texts are equal.
    """
    ids = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    labels = np.array([ids[text] for text in texts])
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :top]
    return float((labels[best] == labels[:, None]).any(1).mean())
