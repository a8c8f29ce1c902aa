"""Limits of preprocessing: what long alt-texts and extreme images may cost, and what they lose."""

from __future__ import annotations

import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from altogether_rt.config import EncoderConfig, PromptConfig
from altogether_rt.preprocess.pixels import Preprocessor
from altogether_rt.preprocess.prompts import PromptTokenizer

pytestmark = pytest.mark.lean

LONG = "x" * 63  # a token of as many characters as are allowed for, with the space after it


def tokenizer(max_alt_tokens: int) -> PromptTokenizer:
    words = {"<s>": 0, LONG: 1, "a": 2, "?": 3}
    inner = Tokenizer(models.WordLevel(words, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PromptTokenizer(inner, PromptConfig(max_alt_tokens=max_alt_tokens), pad_id=0)


def test_no_special_token_is_added() -> None:
    assert tokenizer(4).encode("a a") == [2, 2]
    assert tokenizer(4).prompt(["a a"]).ids == (2, 2)


def test_long_tokens_are_not_cut() -> None:
    prompt = tokenizer(3).prompt([f"{LONG} {LONG} {LONG}"])
    assert (prompt.ids, prompt.alt_truncated) == ((1, 1, 1), False)
    prompt = tokenizer(3).prompt([f"{LONG} {LONG} {LONG} a"])
    assert (prompt.ids, prompt.alt_truncated) == ((1, 1, 1), True)


def test_what_is_cut_before_it_is_tokenized_is_truncated() -> None:
    prompt = tokenizer(3).prompt(["y" * (3 * 64 + 1)])
    assert (prompt.ids, prompt.alt_truncated) == ((3,), True)
    prompt = tokenizer(3).prompt(["y" * (3 * 64)])
    assert (prompt.ids, prompt.alt_truncated) == ((3,), False)


@pytest.mark.parametrize("size", [(2, 200), (200, 2), (1, 5000), (20_000, 2)])
def test_a_strip_is_never_enlarged_whole(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    resize = Image.Image.resize

    def spy(image: Image.Image, size: tuple[int, int], *rest: object, **options: object) -> object:
        made.append(size[0] * size[1])
        return resize(image, size, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", spy)
    encoder = EncoderConfig("none", 4, image_size=32, resize="shortest_center_crop")
    assert Preprocessor(encoder).pixels(Image.new("RGB", size, "red")).shape == (32, 32, 3)
    assert max(made) <= 16 * 32 * 32
