"""A whole captioner: its parts, what they must have in common, and what follows from them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from altogether_rt.config.checks import require
from altogether_rt.config.text import DecoderConfig, GenerationConfig, PromptConfig
from altogether_rt.config.vision import EncoderConfig, MapperConfig, TilesConfig
from altogether_rt.plain_data import from_dict

__all__ = ["MAX_DRAFT_TOKENS", "CaptionerConfig"]

#: Maximum number of draft tokens that a row brings to a decoder step; with the token before them
#: they fill a tile of 16 rows.
MAX_DRAFT_TOKENS = 15


@dataclass(frozen=True)
class CaptionerConfig:
    """A whole captioner."""

    name: str
    encoder: EncoderConfig
    mapper: MapperConfig
    decoder: DecoderConfig
    prompt: PromptConfig = field(default_factory=PromptConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    tiles: TilesConfig | None = None  # None: an image is one tile

    def __post_init__(self) -> None:
        if self.mapper.kind == "transformer":
            require(
                self.decoder.token_width % self.mapper.heads == 0,
                "the decoder's token width must be a multiple of mapper.heads.",
            )
        self._check_tiles()
        chat = self.prompt.chat
        for name, ids in (
            ("prompt.before_ids", self.prompt.before_ids),
            ("prompt.after_ids", self.prompt.after_ids),
            ("prompt.suffix_ids", self.prompt.suffix_ids),
            ("prompt.no_alt_ids", self.prompt.no_alt_ids or ()),
            ("generation.stop_ids", self.generation.stop_ids),
            ("prompt.chat.image_end_ids", () if chat is None else chat.image_end_ids),
            ("prompt.chat.answer_ids", () if chat is None else chat.answer_ids),
        ):
            require(
                all(0 <= token < self.decoder.vocab_size for token in ids),
                f"{name} has an id outside the vocabulary.",
            )
        self._check_patches()
        require(
            self.max_prompt_tokens < self.decoder.max_positions,
            "decoder.max_positions leaves no room for a caption after the prompt.",
        )

    def _check_patches(self) -> None:
        grid, mapper = self.encoder.grid, self.mapper
        require(
            (grid is not None) == (mapper.kind == "patches"),
            "mapper.kind must be patches with encoder.vit, and only with it.",
        )
        if grid is not None:
            require(
                grid % mapper.shuffle == 0
                and mapper.prefix_length == (grid // mapper.shuffle) ** 2,
                f"mapper.prefix_length must be the number of blocks of {mapper.shuffle} × "
                f"{mapper.shuffle} among {grid} × {grid} patches.",
            )

    def _check_tiles(self) -> None:
        tiles, side = self.tiles, self.max_tiles_per_side
        if tiles is None:
            return
        require(self.encoder.vit is not None, "tiles are for encoders of patch tokens.")
        require(
            tiles.longest_edge % self.encoder.image_size == 0,
            "tiles.longest_edge must be a multiple of encoder.image_size.",
        )
        require(
            len(tiles.tile_ids) == side and all(len(row) == side for row in tiles.tile_ids),
            f"tiles.tile_ids must have {side} rows and columns.",
        )
        require(
            all(
                0 <= token < self.decoder.vocab_size
                for piece in tiles.pieces(side, side)
                for token in piece
            ),
            "tiles has an id outside the vocabulary.",
        )

    @property
    def max_tiles_per_side(self) -> int:
        """Most rows and columns of tiles."""
        return 1 if self.tiles is None else self.tiles.longest_edge // self.encoder.image_size

    @property
    def max_visual_tokens(self) -> int:
        """Most visual tokens of an image: those of all tiles, and of the whole."""
        tiles = self.max_tiles_per_side**2
        return self.mapper.prefix_length * (tiles + 1 if tiles > 1 else 1)

    def pieces(self, rows: int = 1, columns: int = 1) -> list[tuple[int, ...]]:
        """Fixed tokens before the visual tokens of each tile of an image; one tile by default."""
        if self.tiles is None or rows * columns == 1:
            return [self.prompt.before_ids]
        return self.tiles.pieces(rows, columns)

    @property
    def max_prompt_tokens(self) -> int:
        """Longest prompt, in tokens: fixed tokens, visual tokens and the longest alt-text."""
        prompt, side = self.prompt, self.max_tiles_per_side
        alt = prompt.max_alt_tokens if prompt.use_alt else 0
        around = len(prompt.after_ids) + len(prompt.suffix_ids)
        if prompt.chat is not None:
            around = max(around, prompt.chat.max_tokens)
        text = max(around + alt, len(prompt.no_alt_ids or ()))
        return sum(map(len, self.pieces(side, side))) + self.max_visual_tokens + text

    @property
    def max_caption_tokens(self) -> int:
        """Maximum length of a caption, EOS included, that fits after the longest prompt."""
        return min(
            self.generation.max_new_tokens, self.decoder.max_positions - self.max_prompt_tokens
        )

    @property
    def capacity(self) -> int:
        """Tokens in a cache slot: the longest prompt and the longest caption."""
        return self.max_prompt_tokens + self.max_caption_tokens

    @property
    def max_chunk_tokens(self) -> int:
        """Maximum tokens of a row in one decoder step: the longest prompt, then draft tokens."""
        return self.max_prompt_tokens + MAX_DRAFT_TOKENS

    @property
    def slot_positions(self) -> int:
        """Positions in a cache slot: attention needs room for a whole chunk after a full slot."""
        return self.capacity + self.max_chunk_tokens

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `CaptionerConfig.from_dict(config.to_dict())` gives the same config.

        Without what was added later and is at its default: the ids of bundles are hashes of this.
        """
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        for part, keys in _ADDED_KEYS.items():
            default = {f.name: f.default for f in dataclasses.fields(_PARTS[part])}
            for key in keys:
                if getattr(getattr(self, part), key) == default[key]:
                    del plain[part][key]
        if self.tiles is None:
            del plain["tiles"]
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CaptionerConfig:
        return from_dict(cls, data)


_PARTS = {
    "encoder": EncoderConfig,
    "mapper": MapperConfig,
    "prompt": PromptConfig,
    "generation": GenerationConfig,
}
#: Keys that the first bundles did not have.
_ADDED_KEYS = {
    "encoder": ("vit",),
    "mapper": ("shuffle", "hidden", "bias"),
    "prompt": ("before_ids", "after_ids", "alt_prefix", "no_alt_ids", "chat"),
    "generation": ("loop_repeats",),
}
