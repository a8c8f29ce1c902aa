"""Preprocessing is that of the libraries the models come from: open_clip's and transformers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from altogether_rt.config import EncoderConfig, PromptConfig
from altogether_rt.importing.tokenizer import tokenizer_json
from altogether_rt.model._torchvision import make_torchvision_importable
from altogether_rt.preprocess.pixels import Preprocessor
from altogether_rt.preprocess.prompts import PromptTokenizer

make_torchvision_importable()

import open_clip  # noqa: E402  (needs the line above where torch is a CPU build)
from transformers import AutoTokenizer  # noqa: E402

FILTERS: tuple[Any, ...] = ("bicubic", "bilinear")
MODES: dict[Any, str] = {"squash": "squash", "shortest_center_crop": "shortest"}


def by_open_clip(image: Image.Image, encoder: EncoderConfig) -> NDArray[np.uint8]:
    """open_clip's pixels before they are normalised."""
    transform = open_clip.image_transform(
        encoder.image_size,
        is_train=False,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        resize_mode=MODES[encoder.resize],
        interpolation=encoder.interpolation,
    )
    pixels = transform(image).permute(1, 2, 0).numpy() * 255
    rounded: NDArray[np.uint8] = np.rint(pixels).astype(np.uint8)
    assert np.abs(pixels - rounded).max() < 1e-3
    return rounded


def differences(image: Image.Image, encoder: EncoderConfig) -> int:
    found = Preprocessor(encoder).pixels(image).astype(np.int16)
    return int(np.abs(found - by_open_clip(image, encoder)).max())


def picture(width: int, height: int) -> Image.Image:
    """Smooth shapes with noise on them."""
    rng = np.random.default_rng(width * 7919 + height)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (3 + 5 * c) + c) * np.cos(y / (4 + 3 * c)) for c in range(3)]
    array = 127 + 100 * np.stack(waves, axis=-1) + rng.normal(0, 20, (height, width, 3))
    return Image.fromarray(array.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("resize", MODES)
@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("image_size", [224, 37])
def test_pixels_are_open_clips_for_any_size(
    image_size: int, interpolation: Any, resize: Any
) -> None:
    encoder = EncoderConfig(
        "any", 1, image_size=image_size, resize=resize, interpolation=interpolation
    )
    sizes = [(640, 480), (333, 500), (1, 1), (5, 9), (224, 224), (224, 301), (37, 36), (1023, 77)]
    sizes += [(225, 223), (449, 448), (91, 1001), (101, 100), (639, 427), (2, 31)]
    for width, height in sizes:
        assert differences(picture(width, height), encoder) == 0, (width, height)


@pytest.mark.parametrize("resize", MODES)
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "grey.jpg", "a.webp"])
def test_pixels_are_open_clips_from_files(name: str, resize: Any, tmp_path: Path) -> None:
    path = tmp_path / name
    image = picture(301, 190)
    (image.convert("L") if name.startswith("grey") else image).save(path)
    encoder = EncoderConfig("any", 1, resize=resize)
    with Image.open(path) as file:
        assert differences(file.convert("RGB"), encoder) == 0


@pytest.mark.parametrize("size", [(4000, 3), (3, 4000), (2, 3000), (1, 999), (5000, 7), (9, 300)])
def test_extreme_strips_are_open_clips_within_one_level(size: tuple[int, int]) -> None:
    image = picture(*size)
    for image_size in (24, 33, 64):
        for interpolation in FILTERS:
            encoder = EncoderConfig("any", 1, image_size=image_size, interpolation=interpolation)
            found = Preprocessor(encoder).pixels(image).astype(np.int16)
            wanted = by_open_clip(image, encoder)
            assert np.abs(found - wanted).max() <= 1
            assert (found != wanted).mean() < 0.01


@pytest.mark.parametrize("size", [(40, 4001), (3000, 61), (70, 2000)])
def test_long_pictures_that_shrink_are_open_clips(size: tuple[int, int]) -> None:
    for image_size in (24, 33):
        for interpolation in FILTERS:
            encoder = EncoderConfig("any", 1, image_size=image_size, interpolation=interpolation)
            assert differences(picture(*size), encoder) == 0


def test_pixels_are_open_clips_for_photographs(shared_data: Path) -> None:
    paths = sorted((shared_data / "captions" / "images").rglob("*.jpg"))
    paths += sorted((shared_data / "alts" / "images").iterdir())[::4]
    assert len(paths) > 40
    for path in paths:
        with Image.open(path) as file:
            image = file.convert("RGB")
        for resize in MODES:
            assert differences(image, EncoderConfig("any", 1, resize=resize)) == 0, path.name


@pytest.fixture(scope="module")
def opt_tokenizers(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PromptTokenizer, Any]:
    """Ours through its file, and transformers' as OPT is published."""
    source = shared_data / "tokenizers" / "opt"
    folder = tmp_path_factory.mktemp("opt")
    (folder / "ours.json").write_text(tokenizer_json(source), "utf-8")
    ours = PromptTokenizer.from_file(folder / "ours.json", PromptConfig(), pad_id=1)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes((source / name).read_bytes())
    special = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return ours, AutoTokenizer.from_pretrained(str(folder))


HARD_TEXTS = (
    "",
    " ",
    "  two  spaces  ",
    "don't I'll we've CAN'T",
    "06/01/2004 IMG_0042.JPG 3.14e-10",
    "naïve café — “quotes” … ½ ™",
    "日本語のテキスト 한국어 עברית العربية",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🐕",
    "tab\tnew\nline\r\nend \u00a0 nbsp \u200b zero",
    "a" * 300,
    "=" * 200,
    "\x00\x07 control \ufffd",
    "<html>&amp;</html> http://example.org/a?b=c#d",
)


def test_tokens_are_transformers_for_the_opt_vocabulary(
    opt_tokenizers: tuple[PromptTokenizer, Any], shared_data: Path
) -> None:
    ours, reference = opt_tokenizers
    captions = json.loads(
        (shared_data / "captions" / "captions_val2017_textonly.json").read_text("utf-8")
    )["annotations"]
    lines = (shared_data / "alts" / "alts.jsonl").read_text("utf-8").splitlines()
    texts = [row["caption"] for row in captions[:8000]]
    texts += [json.loads(line)["alt"] or "" for line in lines]
    texts += HARD_TEXTS
    wanted = reference(texts, add_special_tokens=False)["input_ids"]
    for text, ids in zip(texts, wanted, strict=True):
        assert ours.encode(text) == ids, text
    assert sum(map(len, wanted)) > 80_000


def test_the_opt_vocabulary_and_its_special_tokens(
    opt_tokenizers: tuple[PromptTokenizer, Any],
) -> None:
    ours, reference = opt_tokenizers
    assert ours.vocab_size == len(reference) == 50265
    assert ours.encode("A photo of a cat") == [250, 1345, 9, 10, 4758]
    assert (reference.pad_token_id, reference.eos_token_id) == (1, 2)
    assert ours.decode([1, 250, 1345, 2, 1]) == "A photo"


def test_decoded_text_is_transformers(opt_tokenizers: tuple[PromptTokenizer, Any]) -> None:
    ours, reference = opt_tokenizers
    rng = np.random.default_rng(0)
    sequences = [rng.integers(4, 50265, 12).tolist() for _ in range(300)]
    sequences += [ours.encode(text) for text in HARD_TEXTS]
    for ids in sequences:
        wanted = reference.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids) == " ".join(wanted.split())
