"""Which text a sample is trained with: a function of its key, the seed and the epoch alone.

The order of the samples and their number have no influence. A draw does not depend on the ratio
either; it is compared with it. The choices of two ratios are therefore nested: a sample whose text
is its caption at one ratio has its caption at every higher ratio.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from altogether_rt.errors import ConfigError

__all__ = ["MixDraw", "MixedText", "mix_text"]

#: Bits of a draw: as many as a float holds exactly, so that no draw is rounded up to 1.
_DRAW_BITS: Final = 53


@dataclass(frozen=True)
class MixDraw:
    """The draws of one mixture. Raises ConfigError if `ratio` is not within 0 and 1."""

    ratio: float  # probability of a caption
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ConfigError(f"the ratio of captions is {self.ratio}: it must be from 0 to 1.")

    def wants_caption(self, key: str, epoch: int = 0) -> bool:
        """Whether the sample's text should be its caption: never at ratio 0, always at 1."""
        return self._uniform("caption", key, epoch) < self.ratio

    def alt(self, alts: Sequence[str], key: str, epoch: int = 0) -> str:
        """One of several alt-texts; the choice does not depend on the ratio."""
        if len(alts) == 1:
            return alts[0]
        return alts[int(self._uniform("alt", key, epoch) * len(alts))]

    def _uniform(self, purpose: str, key: str, epoch: int) -> float:
        """A number in [0, 1), a multiple of 2**-53."""
        # surrogatepass: file names may contain bytes that are not UTF-8.
        name = f"{purpose}\0{self.seed}\0{epoch}\0{key}".encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(name, digest_size=8).digest()
        return (int.from_bytes(digest, "big") >> (64 - _DRAW_BITS)) / float(1 << _DRAW_BITS)


@dataclass(frozen=True)
class MixedText:
    """The text that a sample is trained with."""

    text: str
    source: Literal["alt", "caption"]
    missing_caption: bool = False  # a caption was drawn, but there is none: this is the alt-text


def mix_text(
    draw: MixDraw, key: str, alts: Sequence[str], caption: str | None, epoch: int = 0
) -> MixedText | None:
    """The text of one sample in one epoch; None if there is none.

    A missing caption is replaced by the alt-text, as in the paper. A missing alt-text is not
    replaced by the caption: at ratio 0 nothing is trained with captions.
    """
    wants_caption = draw.wants_caption(key, epoch)
    if wants_caption and caption:
        return MixedText(caption, "caption")
    if not alts:
        return None
    return MixedText(draw.alt(alts, key, epoch), "alt", missing_caption=wants_caption)
