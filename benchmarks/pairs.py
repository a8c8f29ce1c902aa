"""Real alt-texts with captions of the same images, for benchmarks whose speed depends on them.

`scenes`: alt-text and reference caption of generated scenes. `coco`: one of an image's five human
captions as the alt-text and another as the caption; from the folder `$ALTOGETHER_DATA`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.errors import AltogetherError
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.scenes.text import make_sample

__all__ = ["SEED", "SOURCES", "TextPair", "TokenPair", "token_pairs"]

SEED = 2026
COCO = Path("captions", "captions_val2017_textonly.json")

TextPair = tuple[str, str]  # alt-text, caption
TokenPair = tuple[tuple[int, ...], tuple[int, ...]]  # token ids of both, the caption's EOS included


def _scenes(num: int) -> list[TextPair]:
    samples = (make_sample(SEED, index, "test") for index in range(num))
    return [(" ".join(sample.alts), sample.caption) for sample in samples]


def _coco(num: int) -> list[TextPair]:
    """In the order of the images. Raises AltogetherError if the data is not there."""
    folder = os.environ.get("ALTOGETHER_DATA")
    path = Path(folder) / COCO if folder else COCO
    if not path.is_file():
        raise AltogetherError(
            f"there is no file {path}: set ALTOGETHER_DATA to a folder with {COCO}."
        )
    by_image: dict[int, list[str]] = {}
    for row in json.loads(path.read_text("utf-8"))["annotations"]:
        by_image.setdefault(row["image_id"], []).append(row["caption"].strip())
    texts = [captions[:2] for _, captions in sorted(by_image.items()) if len(captions) > 1]
    return [(alt, caption) for alt, caption in texts[:num]]


#: The first `num` pairs of each source.
SOURCES: dict[str, Callable[[int], list[TextPair]]] = {"scenes": _scenes, "coco": _coco}


def token_pairs(bundle: Bundle, texts: Sequence[TextPair]) -> list[TokenPair]:
    """`texts` as token ids of the bundle's captioner."""
    config = bundle.config
    tokenizer = PromptTokenizer.from_file(
        bundle.tokenizer_path, config.prompt, config.decoder.pad_id
    )
    max_tokens = config.max_caption_tokens - 1  # EOS is added
    eos_id = config.decoder.eos_id
    return [
        (tokenizer.prompt([alt]).ids, (*tokenizer.encode(caption)[:max_tokens], eos_id))
        for alt, caption in texts
    ]
