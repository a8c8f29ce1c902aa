"""The sizes that TensorRT engines are compiled for, derived from the configuration alone."""

from __future__ import annotations

from collections.abc import Mapping

from altogether_rt.artifacts.engines import EngineProfile
from altogether_rt.config import MAX_DRAFT_TOKENS, CaptionerConfig

__all__ = ["MAX_IMAGES", "MAX_ROWS", "profiles_for"]

#: Maximum rows of a decoder call, maximum images of an encoder or mapper call.
MAX_ROWS, MAX_IMAGES = 32, 32
#: The sizes that TensorRT optimises for (`opt` in its profiles).
OPT_ROWS, OPT_IMAGES = 8, 8
#: Tokens per row of a call that verifies drafts, on average over its rows.
VERIFY_TOKENS_PER_ROW = 8
#: Number of longest prompts that fit in one prefill call.
PREFILL_PROMPTS = 16
#: Maximum number of next tokens computed by one prefill call; captioning asks for one per row.
PREFILL_WANTED = 256


def profiles_for(graph: str, config: CaptionerConfig) -> tuple[EngineProfile, ...]:
    """The optimisation profiles of one graph, in order of increasing call size.

    The decoder has `decode` (one token per row), `verify` (drafts) and `prefill` (prompts). Each
    takes at least one visual token: a call without visual tokens is given a dummy one, which is
    written to a packed position that no row reads. The sizes include room for that position.
    """
    if graph == "decoder":
        return _decoder_profiles(config)
    size = config.encoder.image_size
    item = {"encoder": (size, size, 3), "mapper": config.encoder.embedding_shape}[graph]
    shapes = tuple((n, *item) for n in (1, OPT_IMAGES, MAX_IMAGES))
    name = {"encoder": "pixels", "mapper": "embeddings"}[graph]
    return (EngineProfile("all", {name: (shapes[0], shapes[1], shapes[2])}),)


def _decoder_profiles(config: CaptionerConfig) -> tuple[EngineProfile, ...]:
    prompt, prefix = config.max_chunk_tokens, config.max_visual_tokens
    verified = MAX_ROWS * VERIFY_TOKENS_PER_ROW
    prefilled = _round_up(PREFILL_PROMPTS * prompt, 128)
    room = 8  # for the dummy visual token; a multiple of 8, which suits GEMM tiles

    def profile(
        name: str, chunk: tuple[int, int], tokens: tuple[int, int], visual: int, wanted: int
    ) -> EngineProfile:
        opt = _shapes(config, OPT_ROWS, chunk[0], tokens[0], visual, min(wanted, OPT_ROWS))
        maximum = _shapes(config, MAX_ROWS, chunk[1], tokens[1], visual, wanted)
        minimum = _shapes(config, 1, 1, 1, 1, 1)
        shapes = {key: (minimum[key], opt[key], maximum[key]) for key in minimum}
        return EngineProfile(name, shapes)

    many = (OPT_ROWS * prompt // 2, prefilled)
    verify = min(1 + MAX_DRAFT_TOKENS, config.capacity)  # the last accepted token and its draft
    return (
        profile("decode", (1, 1), (OPT_ROWS + room, MAX_ROWS + room), 1, MAX_ROWS + room),
        profile("verify", (verify // 2, verify), (OPT_ROWS * 4, verified), 1, verified),
        profile("prefill", (prompt, prompt), many, PREFILL_PROMPTS * prefix, PREFILL_WANTED),
    )


def _shapes(
    config: CaptionerConfig, rows: int, chunk: int, tokens: int, visual: int, wanted: int
) -> Mapping[str, tuple[int, ...]]:
    decoder = config.decoder
    return {
        **dict.fromkeys(("token_ids", "positions", "unpad_index"), (tokens,)),
        "visual_tokens": (visual, decoder.token_width),
        "visual_index": (visual,),
        **dict.fromkeys(("query_lengths", "past_lengths"), (rows,)),
        "pad_index": (rows, chunk),
        "logit_index": (wanted,),
        # The exporter writes the same number of positions into the graph.
        "past": (rows, decoder.num_kv_heads, config.slot_positions, decoder.head_dim),
    }


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
