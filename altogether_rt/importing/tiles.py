"""How SmolVLM's prompt names the tiles of an image."""

from __future__ import annotations

from tokenizers import Tokenizer

from altogether_rt.config import CaptionerConfig, TilesConfig
from altogether_rt.errors import AltogetherError

__all__ = ["read_tiles"]

#: Rows and columns that the published models know.
_MAX_SIDE = 6


def read_tiles(config: CaptionerConfig, tokenizer: Tokenizer, longest_edge: int) -> TilesConfig:
    """The tiles of images whose longer side is resized to `longest_edge` pixels.

    Raises AltogetherError for a captioner whose tokenizer has no tokens around images, or a length
    that is not a whole number of tiles.
    """
    around, side = "<fake_token_around_image>", config.encoder.image_size
    if tokenizer.token_to_id(around) is None:
        raise AltogetherError(
            f"{config.name} reads an image as one tile: leave out --longest-edge."
        )
    if longest_edge % side or not 0 < longest_edge <= _MAX_SIDE * side:
        raise AltogetherError(
            f"--longest-edge is {longest_edge}, but {config.name} reads tiles of {side} pixels: "
            f"give a multiple of {side}, {_MAX_SIDE * side} at most."
        )

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False).ids)

    numbers = range(1, longest_edge // side + 1)
    return TilesConfig(
        longest_edge,
        start_ids=ids("<|im_start|>User:"),
        tile_ids=tuple(
            tuple(ids(f"{around}<row_{row}_col_{column}>") for column in numbers) for row in numbers
        ),
        row_end_ids=ids("\n"),
        # The end of the last row belongs to it: the tokenizer sees both line breaks at once.
        overview_ids=ids(f"\n\n{around}<global-img>"),
    )
