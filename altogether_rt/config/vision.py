"""From pixels to visual tokens: encoder, tiles, mapper."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from altogether_rt.config.checks import require
from altogether_rt.plain_data import check_numbers

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "EncoderConfig",
    "MapperConfig",
    "TilesConfig",
    "VitConfig",
]

#: CLIP's published channel statistics (Radford et al. 2021), the default of open_clip.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VitConfig:
    """A vision transformer whose patch tokens are the embedding: SigLIP's tower, without pooling.

    Pre-norm blocks with biases, learned positions, no class token, a final norm of every patch.
    """

    width: int
    layers: int
    heads: int
    ffn_width: int
    patch_size: int
    activation: Literal["gelu", "gelu_tanh"] = "gelu_tanh"
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "ffn_width", "patch_size"):
            require(getattr(self, name) > 0, f"encoder.vit.{name} must be positive.")
        require(0 < self.norm_eps < 1, "encoder.vit.norm_eps must be between 0 and 1.")
        require(
            self.width % self.heads == 0,
            "encoder.vit.width must be a multiple of encoder.vit.heads.",
        )


@dataclass(frozen=True)
class EncoderConfig:
    """The frozen image encoder.

    Any open_clip model, used for its pooled, projected embedding; or, with `vit`, a vision
    transformer of this package, used for its patch tokens.
    """

    name: str  # open_clip's model name or hub id; a label only when `model` or `vit` is given
    embed_dim: int  # width of the embedding, or of each patch token
    image_size: int = 224
    resize: Literal["squash", "shortest_center_crop"] = "shortest_center_crop"
    interpolation: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    normalize: bool = True  # L2-normalise the embedding
    model: Mapping[str, Any] | None = None  # open_clip custom configuration (its JSON format)
    vit: VitConfig | None = None  # instead of an open_clip model

    def __post_init__(self) -> None:
        require(self.image_size > 0, "encoder.image_size must be positive.")
        require(self.embed_dim > 0, "encoder.embed_dim must be positive.")
        require(all(0 < s < math.inf for s in self.std), "encoder.std must be positive.")
        check_numbers(vars(self), "encoder")
        for key in ("vision_cfg", "text_cfg"):
            part = (self.model or {}).get(key, {})
            require(isinstance(part, Mapping), f"encoder.model.{key} must be a table of keys.")
        if self.vit is not None:
            require(self.model is None, "encoder.model and encoder.vit exclude each other.")
            require(not self.normalize, "encoder.normalize is for pooled embeddings.")
            require(
                self.embed_dim == self.vit.width, "encoder.embed_dim must be encoder.vit.width."
            )
            require(
                self.image_size >= self.vit.patch_size,
                "encoder.image_size must be at least encoder.vit.patch_size.",
            )

    @property
    def grid(self) -> int | None:
        """Patches along each side of the image; None for a pooled embedding.

        Pixels beyond the last whole patch are not seen (SigLIP's 384 px in patches of 14).
        """
        return None if self.vit is None else self.image_size // self.vit.patch_size

    @property
    def embedding_shape(self) -> tuple[int, ...]:
        """Shape of one image's embedding: (E,), or (patches, E)."""
        return (self.embed_dim,) if self.grid is None else (self.grid**2, self.embed_dim)

    @property
    def vision_cfg(self) -> Mapping[str, Any] | None:
        """open_clip's own description of the vision tower.

        None if there is none, or if the tower belongs to another library (timm).
        """
        vision = (self.model or {}).get("vision_cfg")
        if not isinstance(vision, Mapping) or "timm_model_name" in vision:
            return None
        return vision


@dataclass(frozen=True)
class TilesConfig:
    """Reads an image at a higher resolution: in square tiles, row by row, then as a whole.

    The image is resized to `longest_edge`, and each side rounded up to whole tiles of the encoder's
    image size, as Idefics3 does (Laurençon et al. 2024, arXiv 2408.12637). One that fits into a
    single tile has no others, and the prompt of a captioner without tiles.

        start_ids, then for each row: tile_ids and visual tokens of its tiles, row_end_ids after
        all rows but the last, overview_ids, visual tokens of the whole image
    """

    longest_edge: int  # pixels; a multiple of the encoder's image size
    start_ids: tuple[int, ...] = ()
    tile_ids: tuple[tuple[tuple[int, ...], ...], ...] = ()  # by row and column
    row_end_ids: tuple[int, ...] = ()
    overview_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(self.longest_edge > 0, "tiles.longest_edge must be positive.")
        check_numbers(vars(self), "tiles")

    def pieces(self, rows: int, columns: int) -> list[tuple[int, ...]]:
        """Fixed tokens before the visual tokens of each tile, and before those of the whole."""
        pieces: list[tuple[int, ...]] = []
        for row, tiles in enumerate(self.tile_ids[:rows]):
            for column, tile in enumerate(tiles[:columns]):
                pieces.append(tile if row == 0 or column else (*self.row_end_ids, *tile))
        pieces[0] = (*self.start_ids, *pieces[0])
        return [*pieces, self.overview_ids]


@dataclass(frozen=True)
class MapperConfig:
    """Turns one image's embedding into `prefix_length` visual tokens of the decoder's width.

    `transformer` and `mlp` take a pooled embedding; `patches` projects every patch token, or every
    block of `shuffle` × `shuffle` of them, by one linear layer or, with `hidden`, by two.
    """

    kind: Literal["transformer", "mlp", "patches"] = "transformer"
    prefix_length: int = 40  # visual tokens that the decoder reads
    clip_length: int = 40  # positions the embedding is unfolded into (transformer only)
    layers: int = 8  # transformer only
    heads: int = 8  # transformer only
    mlp_ratio: float = 2.0  # transformer only
    shuffle: int = 1  # patches only: side of the blocks that become one visual token
    hidden: int | None = None  # patches only: width between two layers; None: one layer
    bias: bool = True  # patches only

    def __post_init__(self) -> None:
        for name in ("prefix_length", "clip_length", "layers", "heads", "mlp_ratio", "shuffle"):
            require(0 < getattr(self, name) < math.inf, f"mapper.{name} must be positive.")
        require(self.hidden is None or self.hidden > 0, "mapper.hidden must be positive.")
        check_numbers(vars(self), "mapper")
