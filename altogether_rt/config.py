"""What a captioner is: every value that changes the numbers, as frozen data.

A configuration is read from JSON (inside a checkpoint or a bundle) or from TOML (the named
configurations shipped in `altogether_rt/configs/`). Unknown keys fail, derived values are
properties, and nothing here depends on the name of a model.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Literal

from altogether_rt import toml
from altogether_rt.errors import ConfigError
from altogether_rt.plain_data import check_numbers, from_dict

__all__ = [
    "MAX_DRAFT_TOKENS",
    "CaptionerConfig",
    "ChatConfig",
    "DecoderConfig",
    "EncoderConfig",
    "GenerationConfig",
    "InstructionConfig",
    "MapperConfig",
    "PromptConfig",
    "TilesConfig",
    "VitConfig",
    "load_config",
    "named_config",
    "named_configs",
]

_KIND = "configuration"  # in messages about a file

#: Maximum number of draft tokens that a row brings to a decoder step; with the token before them
#: they fill a tile of 16 rows.
MAX_DRAFT_TOKENS = 15

#: Longest instruction of a bundle, in characters.
MAX_INSTRUCTION_CHARS = 4096

#: Most times in a row that a passage may have to stand before it ends a caption.
MAX_LOOP_REPEATS = 1000

#: CLIP's published channel statistics (Radford et al. 2021), the default of open_clip.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


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
            _require(getattr(self, name) > 0, f"encoder.vit.{name} must be positive.")
        _require(0 < self.norm_eps < 1, "encoder.vit.norm_eps must be between 0 and 1.")
        _require(
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
        _require(self.image_size > 0, "encoder.image_size must be positive.")
        _require(self.embed_dim > 0, "encoder.embed_dim must be positive.")
        _require(all(0 < s < math.inf for s in self.std), "encoder.std must be positive.")
        check_numbers(vars(self), "encoder")
        for key in ("vision_cfg", "text_cfg"):
            part = (self.model or {}).get(key, {})
            _require(isinstance(part, Mapping), f"encoder.model.{key} must be a table of keys.")
        if self.vit is not None:
            _require(self.model is None, "encoder.model and encoder.vit exclude each other.")
            _require(not self.normalize, "encoder.normalize is for pooled embeddings.")
            _require(
                self.embed_dim == self.vit.width, "encoder.embed_dim must be encoder.vit.width."
            )
            _require(
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
            _require(0 < getattr(self, name) < math.inf, f"mapper.{name} must be positive.")
        _require(self.hidden is None or self.hidden > 0, "mapper.hidden must be positive.")
        check_numbers(vars(self), "mapper")


@dataclass(frozen=True)
class DecoderConfig:
    """A causal language model, described by its structure rather than by its name.

    OPT: relu, learned positions with offset 2. GPT-2: gelu_tanh, learned positions.
    Llama-like: rmsnorm, rotary, gated silu, `kv_heads < heads`, no biases.
    """

    vocab_size: int
    layers: int
    width: int
    heads: int
    ffn_width: int
    max_positions: (
        int  # longest sequence, in tokens (the position table has `position_offset` more)
    )
    eos_id: int
    pad_id: int
    family: str = "opt"  # names the weight layout for import; no behaviour depends on it
    kv_heads: int | None = None  # None: as many as `heads`
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = "relu"
    gated: bool = False  # SwiGLU-style: down(act(gate(x)) * up(x))
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_eps: float = 1e-5
    norm_placement: Literal["pre", "post"] = "pre"
    final_norm: bool = True
    bias: bool = True
    position: Literal["learned", "rotary"] = "learned"
    position_offset: int = 0
    rope_theta: float = 10000.0
    embed_width: int | None = None  # OPT-350m: embeddings narrower than the layers; None: `width`
    tied_head: bool = True

    def __post_init__(self) -> None:
        for name in ("vocab_size", "layers", "width", "heads", "ffn_width", "max_positions"):
            _require(getattr(self, name) > 0, f"decoder.{name} must be positive.")
        check_numbers(vars(self), "decoder")
        _require(self.num_kv_heads > 0, "decoder.kv_heads must be positive.")
        _require(self.token_width > 0, "decoder.embed_width must be positive.")
        _require(self.position_offset >= 0, "decoder.position_offset must not be negative.")
        _require(0 < self.norm_eps < 1, "decoder.norm_eps must be between 0 and 1.")
        _require(self.width % self.heads == 0, "decoder.width must be a multiple of decoder.heads.")
        _require(
            self.heads % self.num_kv_heads == 0,
            "decoder.heads must be a multiple of decoder.kv_heads.",
        )
        _require(0 <= self.eos_id < self.vocab_size, "decoder.eos_id is outside the vocabulary.")
        _require(0 <= self.pad_id < self.vocab_size, "decoder.pad_id is outside the vocabulary.")

    @property
    def num_kv_heads(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def token_width(self) -> int:
        """Width of the embedding table (and of the visual tokens)."""
        return self.width if self.embed_width is None else self.embed_width


@dataclass(frozen=True)
class InstructionConfig:
    """What a decoder that follows instructions is asked for, in words."""

    before_alt: str
    after_alt: str
    no_alt: str  # asked where there is no alt-text

    def __post_init__(self) -> None:
        length = sum(map(len, vars(self).values()))
        _require(
            length <= MAX_INSTRUCTION_CHARS,
            f"an instruction has {length} characters; the most is {MAX_INSTRUCTION_CHARS}.",
        )


@dataclass(frozen=True)
class ChatConfig:
    """How a decoder that follows instructions is asked something else than the prompt's own.

        image_end_ids, before_alt, alt-text, after_alt, answer_ids

    Only `image_end_ids` and `answer_ids` may hold special tokens: instructions and alt-texts are
    plain text.
    """

    caption: InstructionConfig  # the words of `PromptConfig`'s own ids
    alt: InstructionConfig  # for the alt-text of a page: one short sentence
    image_end_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    #: Room for an instruction in the prompt, in tokens, alt-text excluded.
    max_instruction_tokens: int = 128

    def __post_init__(self) -> None:
        _require(
            self.max_instruction_tokens > 0, "prompt.chat.max_instruction_tokens must be positive."
        )
        numbers = (self.image_end_ids, self.answer_ids, self.max_instruction_tokens)
        check_numbers(numbers, "prompt.chat")

    @property
    def max_tokens(self) -> int:
        """Longest text around an alt-text, in tokens."""
        return len(self.image_end_ids) + self.max_instruction_tokens + len(self.answer_ids)


@dataclass(frozen=True)
class PromptConfig:
    """What precedes the caption: visual tokens, then the alt-text, with fixed tokens around them.

        before_ids, visual tokens, after_ids, alt-text, suffix_ids

    Without an alt-text, `no_alt_ids` take the place of everything after the visual tokens. Fixed
    tokens are ids, so that no alt-text can pass for one of them.
    """

    max_alt_tokens: int = 128
    #: `attended_left`: the alt-text is padded on the left to `max_alt_tokens` and the padding is
    #: attended, as in the public training code; `none`: no padding is ever seen by a real token.
    padding: Literal["none", "attended_left"] = "none"
    alt_separator: str = " "  # joins several alt-texts of one image, first occurrence kept
    #: Tokens between alt-text and caption; empty in the published model.
    suffix_ids: tuple[int, ...] = ()
    before_ids: tuple[int, ...] = ()  # before the visual tokens
    after_ids: tuple[int, ...] = ()  # between visual tokens and alt-text
    alt_prefix: str = ""  # tokenized together with the alt-text: a space, after other text
    no_alt_ids: tuple[int, ...] | None = None  # None: the pieces around an empty alt-text
    #: False: the alt-text is never given to the decoder (ClipCap).
    use_alt: bool = True
    chat: ChatConfig | None = None  # of a decoder that follows instructions

    def __post_init__(self) -> None:
        _require(self.max_alt_tokens >= 0, "prompt.max_alt_tokens must not be negative.")
        check_numbers(vars(self), "prompt")


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
        _require(self.longest_edge > 0, "tiles.longest_edge must be positive.")
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
class GenerationConfig:
    """Defaults of generation; each can be overridden when captioning."""

    max_new_tokens: int = 192
    temperature: float = 0.2  # 0: greedy
    top_p: float = 0.7
    #: Tokens that end a caption and stay in it (ClipCap: the full stop); EOS is dropped.
    stop_ids: tuple[int, ...] = ()
    #: A passage that stands so many times in a row ends a caption, which keeps it once; 0: none
    #: does. Short passages must stand more often, see `generation.loops`.
    loop_repeats: int = 0

    def __post_init__(self) -> None:
        _require(self.max_new_tokens > 0, "generation.max_new_tokens must be positive.")
        _require(
            self.loop_repeats == 0 or 2 <= self.loop_repeats <= MAX_LOOP_REPEATS,
            f"generation.loop_repeats must be 0, or between 2 and {MAX_LOOP_REPEATS}.",
        )
        _require(
            0 <= self.temperature < math.inf,
            "generation.temperature must be a number that is not negative.",
        )
        _require(0 < self.top_p <= 1, "generation.top_p must be in (0, 1].")


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
            _require(
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
            _require(
                all(0 <= token < self.decoder.vocab_size for token in ids),
                f"{name} has an id outside the vocabulary.",
            )
        self._check_patches()
        _require(
            self.max_prompt_tokens < self.decoder.max_positions,
            "decoder.max_positions leaves no room for a caption after the prompt.",
        )

    def _check_patches(self) -> None:
        grid, mapper = self.encoder.grid, self.mapper
        _require(
            (grid is not None) == (mapper.kind == "patches"),
            "mapper.kind must be patches with encoder.vit, and only with it.",
        )
        if grid is not None:
            _require(
                grid % mapper.shuffle == 0
                and mapper.prefix_length == (grid // mapper.shuffle) ** 2,
                f"mapper.prefix_length must be the number of blocks of {mapper.shuffle} × "
                f"{mapper.shuffle} among {grid} × {grid} patches.",
            )

    def _check_tiles(self) -> None:
        tiles, side = self.tiles, self.max_tiles_per_side
        if tiles is None:
            return
        _require(self.encoder.vit is not None, "tiles are for encoders of patch tokens.")
        _require(
            tiles.longest_edge % self.encoder.image_size == 0,
            "tiles.longest_edge must be a multiple of encoder.image_size.",
        )
        _require(
            len(tiles.tile_ids) == side and all(len(row) == side for row in tiles.tile_ids),
            f"tiles.tile_ids must have {side} rows and columns.",
        )
        _require(
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


def named_configs() -> list[str]:
    """Names of the configurations shipped with the package."""
    return toml.file_names(_folder())


def named_config(name: str) -> CaptionerConfig:
    """A configuration shipped with the package: `altogether-opt-1.3b`, `starter`, ….

    Raises ConfigError if there is none of that name.
    """
    return _load(toml.find_file(_folder(), name, _KIND, allow_path=False), name)


def load_config(name_or_path: str) -> CaptionerConfig:
    """A named configuration, or that of a .toml file, by its path.

    Raises ConfigError if there is none or it is not valid.
    """
    file = toml.find_file(_folder(), name_or_path, _KIND, allow_path=True)
    return _load(file, file.name.removesuffix(".toml"))


def _folder() -> Traversable:
    return resources.files("altogether_rt").joinpath("configs")


def _load(file: Traversable, name: str) -> CaptionerConfig:
    return toml.load_file(
        file, _KIND, lambda data: CaptionerConfig.from_dict({"name": name, **data})
    )
