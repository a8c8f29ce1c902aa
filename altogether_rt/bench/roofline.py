"""Operations and bytes of mapper and decoder, counted from the configuration.

Notation: W width, F feed-forward width, K width of all key (or value) heads together, E embedding
width, V vocabulary, b bytes a weight, c bytes a cached number.
"""

from __future__ import annotations

from collections.abc import Sequence

from altogether_rt.bench.cost import Cost
from altogether_rt.config import CaptionerConfig, DecoderConfig, MapperConfig

__all__ = ["decoder_cost", "decoder_layer_weights", "mapper_cost", "schedule_cost"]


def mapper_cost(config: CaptionerConfig, images: int, weight_bytes: int) -> Cost:
    """One call of the mapper.

    Transformer over S = clip_length + prefix_length positions, ratio r:
      linear    2 · images · (embed_dim · clip_length · W + S · layers · (4 W² + 2 r W²))
      attention 2 · images · layers · 2 S² W          (scores and weighted sum, every pair)
    MLP through a hidden width H = prefix_length · W / 2:
      linear    2 · images · (embed_dim · H + H · prefix_length · W)
    Patches in blocks of s² through a hidden width H, or through none:
      linear    2 · images · prefix_length · (s² embed_dim · H + H · W)
    bytes b · weights.
    """
    mapper, width = config.mapper, config.decoder.token_width
    embed = config.encoder.embed_dim
    if mapper.kind == "patches":
        block = embed * mapper.shuffle**2
        weights = block * width
        if mapper.hidden is not None:
            weights = mapper.hidden * (block + width)
        return Cost(
            linear=2 * images * mapper.prefix_length * weights, bytes=weight_bytes * weights
        )
    if mapper.kind == "mlp":
        hidden = mapper.prefix_length * width // 2
        weights = embed * hidden + hidden * mapper.prefix_length * width
        return Cost(linear=2 * images * weights, bytes=weight_bytes * weights)
    unfold = embed * mapper.clip_length * width
    layers = mapper.layers * _mapper_layer_weights(mapper, width)
    positions = mapper.clip_length + mapper.prefix_length
    return Cost(
        linear=2 * images * (unfold + positions * layers),
        attention=2 * images * mapper.layers * 2 * positions**2 * width,
        bytes=weight_bytes * (unfold + layers),
    )


def _mapper_layer_weights(mapper: MapperConfig, width: int) -> int:
    return 4 * width * width + 2 * width * int(width * mapper.mlp_ratio)


def decoder_layer_weights(decoder: DecoderConfig) -> int:
    """Weights of one layer's linear maps: 2 W² + 2 W K + (3 if gated, else 2) W F."""
    kv_width = decoder.num_kv_heads * decoder.head_dim
    projections = 2 * decoder.width * (decoder.width + kv_width)
    return projections + (3 if decoder.gated else 2) * decoder.width * decoder.ffn_width


def decoder_cost(
    decoder: DecoderConfig,
    query_lengths: Sequence[int],
    past_lengths: Sequence[int],
    choices: int,
    weight_bytes: int,
    cache_bytes: int = 4,
    layer_bytes: float | None = None,
) -> Cost:
    """Cost of one ragged call: each row adds q tokens to p cached ones; `choices` logits rows.

    linear    2 · (T · (layers · layer weights + 2 E W if E ≠ W) + choices · E · V),   T = Σ q
    attention 2 · layers · 2 W · Σ_rows Σ_{j=1..q} (p + j)      (each token sees those before it)
    bytes     b · (layers · layer weights + projections + E · V) + b · T · E
              + c · 2 K · layers · Σ (p + 2 q)            (cache read, new tokens written)

    layer_bytes: b of the layers, where they are narrower than the head.
    """
    width, token_width = decoder.width, decoder.token_width
    tokens = sum(query_lengths)
    seen = sum(q * p + q * (q + 1) // 2 for q, p in zip(query_lengths, past_lengths, strict=True))
    projections = 2 * token_width * width if token_width != width else 0
    body = decoder.layers * decoder_layer_weights(decoder) + projections
    head = token_width * decoder.vocab_size
    kv_width = decoder.num_kv_heads * decoder.head_dim
    touched = sum(p + 2 * q for q, p in zip(query_lengths, past_lengths, strict=True))
    read = weight_bytes if layer_bytes is None else layer_bytes
    return Cost(
        linear=2 * (tokens * body + choices * head),
        attention=2 * decoder.layers * 2 * width * seen,
        bytes=int(read * body)
        + weight_bytes * (head + tokens * token_width)
        + cache_bytes * 2 * kv_width * decoder.layers * touched,
    )


def schedule_cost(
    decoder: DecoderConfig,
    prompt_lengths: Sequence[int],
    caption_lengths: Sequence[int],
    weight_bytes: int,
    cache_bytes: int = 4,
    layer_bytes: float | None = None,
) -> list[Cost]:
    """Costs of the calls that write these captions together: a prefill, then one step per token.

    A row takes part until it has all its tokens. The prefill chooses the first token, and the last
    one is never fed back, so a caption of n tokens takes part in n - 1 steps.
    """
    rows = len(prompt_lengths)
    sizes = weight_bytes, cache_bytes, layer_bytes
    costs = [decoder_cost(decoder, prompt_lengths, [0] * rows, rows, *sizes)]
    for step in range(1, max(caption_lengths)):
        past = [
            prompt + step - 1
            for prompt, length in zip(prompt_lengths, caption_lengths, strict=True)
            if length > step
        ]
        ones = [1] * len(past)
        costs.append(decoder_cost(decoder, ones, past, len(past), *sizes))
    return costs
