"""Image to pixels and text to token ids: the one implementation for training and inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from altogether_rt.artifacts.tokenizer import read_tokenizer, tokenizer_failure
from altogether_rt.config import CaptionerConfig, EncoderConfig, PromptConfig

__all__ = ["Preprocessor", "Prompt", "PromptTokenizer", "join_alts"]

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}

#: An image that would be enlarged to more than this many times the target area is not enlarged as a
#: whole, only the part that is kept. (An image that shrinks is smaller than its source.)
_MAX_RESIZED_AREA_RATIO = 16

#: Pixels on either side of a position that a filter reads when it enlarges, and one to spare.
_FILTER_REACH = 3

#: Tokens of the supported tokenizers have fewer characters than this on average. Longer alt-texts
#: are cut before they are tokenized, which bounds time and memory.
_MAX_CHARS_PER_TOKEN = 64


class Preprocessor:
    """Resizes and crops as open_clip's inference transform does, pixel for pixel."""

    def __init__(self, encoder: EncoderConfig) -> None:
        self._size = encoder.image_size
        self._squash = encoder.resize == "squash"
        self._filter = _FILTERS[encoder.interpolation]

    @property
    def size(self) -> int:
        """Side of the square that `pixels` makes."""
        return self._size

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Pixels of an RGB image: uint8 (image_size, image_size, 3)."""
        assert image.mode == "RGB", "load_image converts to RGB"
        size = self._size
        if self._squash:
            image = image.resize((size, size), self._filter)
        else:
            image = self._shortest_center_crop(image)
        pixels: NDArray[np.uint8] = np.asarray(image, dtype=np.uint8)
        assert pixels.shape == (size, size, 3)
        return pixels

    def _shortest_center_crop(self, image: Image.Image) -> Image.Image:
        size, short = self._size, min(image.size)
        # The rounding of torchvision's Resize (down) and CenterCrop (half to even).
        new_width, new_height = (int(size * side / short) for side in image.size)
        left, top = round((new_width - size) / 2), round((new_height - size) / 2)
        if short < size and new_width * new_height > _MAX_RESIZED_AREA_RATIO * size * size:
            return self._center_of_enlarged(image, (new_width, new_height), (left, top))
        if (new_width, new_height) != image.size:
            image = image.resize((new_width, new_height), self._filter)
        return image.crop((left, top, left + size, top + size))

    def _center_of_enlarged(
        self, image: Image.Image, new_size: tuple[int, int], corner: tuple[int, int]
    ) -> Image.Image:
        """The centre crop of a long strip whose enlargement would have many megapixels.

        Equal to cropping the enlarged image up to the rounding of filter weights: horizontal first,
        then vertical, like Pillow. It works on a cut-out because Pillow stores a box in float32.
        """
        size = self._size
        x, y = (
            _kept_part(side, new_side, start, size)
            for side, new_side, start in zip(image.size, new_size, corner, strict=True)
        )
        image = image.crop((x.low, y.low, x.high, y.high))
        rows = image.height
        image = image.resize((size, rows), self._filter, box=(x.start, 0, x.end, rows))
        return image.resize((size, size), self._filter, box=(0, y.start, size, y.end))


@dataclass(frozen=True)
class _KeptPart:
    """Along one side: the pixels `low` to `high` that a crop needs, and its bounds within them."""

    low: int
    high: int
    start: float
    end: float


def _kept_part(side: int, new_side: int, new_start: int, size: int) -> _KeptPart:
    start, end = (edge * side / new_side for edge in (new_start, new_start + size))
    low = max(0, int(start) - _FILTER_REACH)
    high = min(side, int(end) + 1 + _FILTER_REACH)
    return _KeptPart(low, high, start - low, min(end - low, high - low))


def join_alts(alts: Sequence[str], separator: str) -> str:
    """Join the alt-texts of one image: in order, without repeats and empty ones."""
    cleaned = (" ".join(alt.split()) for alt in alts)
    return separator.join(dict.fromkeys(alt for alt in cleaned if alt))


@dataclass(frozen=True)
class Prompt:
    """The text part of a prompt: what follows the visual tokens and precedes the caption."""

    ids: tuple[int, ...]
    alt_truncated: bool
    alt_ids: tuple[int, ...] = ()  # of these, the alt-text, without padding and fixed tokens


class PromptTokenizer:
    """The decoder's tokenizer (a `tokenizers` JSON file) with the prompt rules of a captioner."""

    def __init__(self, tokenizer: Tokenizer, prompt: PromptConfig, pad_id: int) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        # "</s>" in an alt-text is text that somebody wrote, not an end of sequence.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._pad_id = pad_id

    @classmethod
    def from_file(cls, path: Path, prompt: PromptConfig, pad_id: int) -> PromptTokenizer:
        """Read a tokenizer file. Raises AltogetherError if it is absent or not valid."""
        return cls(read_tokenizer(path), prompt, pad_id)

    @classmethod
    def of_captioner(cls, path: Path, config: CaptionerConfig) -> PromptTokenizer:
        """`from_file` for a captioner, which has no embedding for ids beyond its vocabulary.

        Raises AltogetherError if the tokenizer has such an id, too.
        """
        tokenizer = read_tokenizer(path, config.decoder.vocab_size)
        return cls(tokenizer, config.prompt, config.decoder.pad_id)

    @property
    def vocab_size(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens. Raises AltogetherError if that fails."""
        # A lone surrogate (from a file name or broken JSON) has no UTF-8 form.
        clean = text.encode("utf-8", "replace").decode("utf-8")
        try:
            ids: list[int] = self._tokenizer.encode(clean, add_special_tokens=False).ids
        except BaseException as error:  # a panic of the library is no Exception
            raise tokenizer_failure(error) from error
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of caption tokens; newlines become spaces."""
        try:
            text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        except BaseException as error:
            raise tokenizer_failure(error) from error
        return " ".join(text.split())

    def prompt(self, alts: Sequence[str]) -> Prompt:
        """The prompt of an image's alt-texts, by the captioner's padding and length rules."""
        rules = self._prompt
        ids: list[int] = []
        truncated = False
        if rules.use_alt:
            text = join_alts(alts, rules.alt_separator)
            text = rules.alt_prefix + text if text else ""
            max_chars = rules.max_alt_tokens * _MAX_CHARS_PER_TOKEN
            ids = self.encode(text[:max_chars])
            truncated = len(ids) > rules.max_alt_tokens or len(text) > max_chars
            ids = ids[: rules.max_alt_tokens]
        if not ids and rules.no_alt_ids is not None:
            return Prompt(rules.no_alt_ids, truncated)
        padding: list[int] = []
        if rules.use_alt and rules.padding == "attended_left":
            padding = [self._pad_id] * (rules.max_alt_tokens - len(ids))
        text_ids = (*rules.after_ids, *padding, *ids, *rules.suffix_ids)
        return Prompt(text_ids, truncated, tuple(ids))
