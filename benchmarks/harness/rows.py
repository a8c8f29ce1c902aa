"""The unit of work that every contestant is given: one image to caption."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Row"]


@dataclass(frozen=True)
class Row:
    """One image, its alt-text, and the length of the caption to write."""

    image: int  # index into the pixels
    alt_ids: tuple[int, ...]
    stand_in_ids: tuple[int, ...]  # as many ids as visual tokens, for engines that take ids only
    caption_tokens: int
    caption_ids: tuple[int, ...] = ()  # of a real pair

    @property
    def prompt_tokens(self) -> int:
        return len(self.stand_in_ids) + len(self.alt_ids)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Row:
        return cls(
            data["image"],
            tuple(data["alt_ids"]),
            tuple(data["stand_in_ids"]),
            data["caption_tokens"],
            tuple(data["caption_ids"]),
        )
