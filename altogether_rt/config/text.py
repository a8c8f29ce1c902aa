"""From visual tokens and an alt-text to a caption: decoder, prompt, generation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from altogether_rt.config.checks import require
from altogether_rt.plain_data import check_numbers

__all__ = [
    "MAX_INSTRUCTION_CHARS",
    "ChatConfig",
    "DecoderConfig",
    "GenerationConfig",
    "InstructionConfig",
    "PromptConfig",
]

#: Longest instruction of a bundle, in characters.
MAX_INSTRUCTION_CHARS = 4096

#: Most times in a row that a passage may have to stand before it ends a caption.
MAX_LOOP_REPEATS = 1000


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
            require(getattr(self, name) > 0, f"decoder.{name} must be positive.")
        check_numbers(vars(self), "decoder")
        require(self.num_kv_heads > 0, "decoder.kv_heads must be positive.")
        require(self.token_width > 0, "decoder.embed_width must be positive.")
        require(self.position_offset >= 0, "decoder.position_offset must not be negative.")
        require(0 < self.norm_eps < 1, "decoder.norm_eps must be between 0 and 1.")
        require(self.width % self.heads == 0, "decoder.width must be a multiple of decoder.heads.")
        require(
            self.heads % self.num_kv_heads == 0,
            "decoder.heads must be a multiple of decoder.kv_heads.",
        )
        require(0 <= self.eos_id < self.vocab_size, "decoder.eos_id is outside the vocabulary.")
        require(0 <= self.pad_id < self.vocab_size, "decoder.pad_id is outside the vocabulary.")

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
        require(
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
        require(
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
        require(self.max_alt_tokens >= 0, "prompt.max_alt_tokens must not be negative.")
        check_numbers(vars(self), "prompt")


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
        require(self.max_new_tokens > 0, "generation.max_new_tokens must be positive.")
        require(
            self.loop_repeats == 0 or 2 <= self.loop_repeats <= MAX_LOOP_REPEATS,
            f"generation.loop_repeats must be 0, or between 2 and {MAX_LOOP_REPEATS}.",
        )
        require(
            0 <= self.temperature < math.inf,
            "generation.temperature must be a number that is not negative.",
        )
        require(0 < self.top_p <= 1, "generation.top_p must be in (0, 1].")
