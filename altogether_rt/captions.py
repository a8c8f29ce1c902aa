"""What a caller asks for and what comes back: requests, parameters, captions."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from altogether_rt.config import CaptionerConfig, GenerationConfig
from altogether_rt.config.checks import require
from altogether_rt.errors import AltogetherError, ConfigError, ImageError
from altogether_rt.wording.alt_style import Shortened

__all__ = [
    "Answer",
    "Caption",
    "CaptionParams",
    "CaptionRequest",
    "CaptionStyle",
    "EmbeddedImage",
    "FinishReason",
    "ParamOverrides",
    "caption_params",
    "check_params",
    "content_hash",
]


#: Why a caption ended: the captioner ended it, it is as long as it may be, or it repeats itself.
FinishReason = Literal["eos", "length", "loop"]

#: Parameters that the first rows did not have.
_ADDED_PARAMS = ("loop_repeats", "style", "prompt")

#: What captions are for: to say what an image shows, or to be the alt-text of a page.
CaptionStyle = Literal["caption", "alt"]


def content_hash(pixels: NDArray[np.uint8]) -> bytes:
    """16 bytes that stand for a picture: the same for the same pixels, and for no others."""
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


@dataclass(frozen=True)
class CaptionParams:
    """How captions are chosen. Everything here changes the output and is written to each row."""

    max_new_tokens: int
    temperature: float  # 0: greedy
    top_p: float
    seed: int = 0  # the run's seed; each row's own seed also derives from its content
    loop_repeats: int = 0  # as in `GenerationConfig`
    style: CaptionStyle = "caption"
    prompt: str | None = None  # what a captioner that follows instructions is asked for

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "seed", "loop_repeats"):
            require(type(getattr(self, name)) is int, f"{name} must be an int.")
        for name in ("temperature", "top_p"):
            require(isinstance(getattr(self, name), (int, float)), f"{name} must be a number.")
        GenerationConfig(  # same bounds
            self.max_new_tokens, self.temperature, self.top_p, loop_repeats=self.loop_repeats
        )
        if self.seed < 0:
            raise ConfigError("seed must not be negative.")
        if self.style not in get_args(CaptionStyle):
            raise ConfigError("style must be caption or alt.")

    @classmethod
    def from_config(cls, config: GenerationConfig, **overrides: Any) -> CaptionParams:
        """The configuration's defaults; overrides that are None leave the default."""
        given = {key: value for key, value in overrides.items() if value is not None}
        defaults = cls(
            config.max_new_tokens,
            config.temperature,
            config.top_p,
            loop_repeats=config.loop_repeats,
        )
        return dataclasses.replace(defaults, **given)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for rows. Without what was added later and is at its default: rows of
        earlier versions, and of captioners that have no use for it, stay as they are.
        """
        plain = dataclasses.asdict(self)
        added = {f.name: f.default for f in dataclasses.fields(self) if f.name in _ADDED_PARAMS}
        return {key: v for key, v in plain.items() if key not in added or v != added[key]}


class ParamOverrides(TypedDict, total=False):
    """Parameters by name, as `CaptionParams` describes them; None: the captioner's own."""

    max_new_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    loop_repeats: int | None
    style: CaptionStyle | None
    prompt: str | None


def caption_params(config: CaptionerConfig, **overrides: Any) -> CaptionParams:
    """The defaults of a captioner, with overrides that are not None (`temperature=0`, …).

    Raises AltogetherError for captions that are longer than it has room for, and for a prompt if it
    follows no instructions.
    """
    limit = config.max_caption_tokens
    defaults = dataclasses.replace(config.generation, max_new_tokens=limit)
    return check_params(config, CaptionParams.from_config(defaults, **overrides))


def check_params(config: CaptionerConfig, params: CaptionParams) -> CaptionParams:
    """`params`, if the captioner can follow them; raises what `caption_params` does."""
    given: object = params  # whatever the annotation says
    if not isinstance(given, CaptionParams):
        raise AltogetherError(
            f"params is a {type(given).__name__}: make it with captioner.params(temperature=0, …)."
        )
    limit = config.max_caption_tokens
    if params.max_new_tokens > limit:
        raise AltogetherError(
            f"max_new_tokens is {params.max_new_tokens}, but this captioner has room for {limit}."
        )
    if params.prompt is not None and config.prompt.chat is None:
        raise AltogetherError(
            f"{config.name} follows no instructions: leave the prompt out, or choose a captioner "
            "that does."
        )
    return params


@dataclass(frozen=True)
class EmbeddedImage:
    """What can stand for an image's pixels."""

    content: bytes  # their `content_hash`
    embedding: NDArray[np.float32] = field(repr=False)  # (E,) or (patches, E)


@dataclass(frozen=True)
class CaptionRequest:
    """One image to caption: its pixels, or what the encoder made of them."""

    #: (H, W, 3), as `Preprocessor.pixels` returns it.
    pixels: NDArray[np.uint8] | None = field(repr=False)
    alts: tuple[str, ...] = ()
    content: bytes = b""  # `content_hash` of the pixels, where it is known
    embedded: EmbeddedImage | None = None  # then pixels are not needed
    image_hash: str = ""  # `file_hash` of the image's file, for its row
    notes: tuple[str, ...] = ()  # what was wrong with the file and did not matter, for its row
    params: CaptionParams | None = None  # of this caption; None: those of its stream

    def __post_init__(self) -> None:
        alts: object = self.alts  # whatever the annotation says
        if isinstance(alts, str):  # of which each letter would be an alt-text
            raise AltogetherError("the alt-texts of a request are a tuple: (text,).")
        if self.pixels is None and self.embedded is None:
            raise AltogetherError("a request has pixels or an embedding.")

    def content_hash(self) -> bytes:
        """What stands for the picture, computed unless it was given."""
        if self.embedded is not None:
            return self.embedded.content
        assert self.pixels is not None, "a request has pixels or an embedding"
        return self.content or content_hash(self.pixels)


@dataclass(frozen=True)
class Caption:
    """One caption."""

    text: str
    finish_reason: FinishReason
    tokens: int  # caption tokens chosen, EOS included
    alt_truncated: bool
    seed: int  # of this row: derived from its content and the run's seed
    #: Where style `alt` cut the text: behind its first `sentence`, a `clause` or a `word`.
    shortened: Shortened = ""
    #: What the encoder made of the image; kept where it was asked for.
    embedded: EmbeddedImage | None = field(default=None, compare=False, repr=False)
    #: Of the image's file, as its request had them.
    image_hash: str = field(default="", compare=False, repr=False)
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)


#: What a sample is answered with: its caption, or why there is none.
Answer = Caption | ImageError
