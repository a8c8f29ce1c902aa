"""The sizes that engines are compiled for: a function of the configuration alone."""

from __future__ import annotations

from collections.abc import Mapping

from altogether_rt.artifacts.manifest import EngineProfile
from altogether_rt.config import MAX_DRAFT_TOKENS, CaptionerConfig

__all__ = ["MAX_IMAGES", "MAX_ROWS", "profiles_for"]

#: Most rows of a decoder call, most images of an encoder or mapper call.
MAX_ROWS, MAX_IMAGES = 32, 32
USUAL_ROWS, USUAL_IMAGES = 8, 8
#: Tokens of a verifying call, a row on average.
VERIFY_TOKENS_A_ROW = 8
#: A prefill takes this many of the longest prompts at once.
PREFILL_PROMPTS = 16
#: Next tokens that a prefill can be asked for; captioning asks for one a row.
PREFILL_WANTED = 256


def profiles_for(graph: str, config: CaptionerConfig) -> tuple[EngineProfile, ...]:
    """Profiles of one graph, the smallest calls first.

    The decoder has `decode` (a token a row), `verify` (drafts) and `prefill` (prompts). Each
    takes at least one visual token: a call without any brings one that goes to a packed place
    which no row reads, and the sizes leave room for such a place.
    """
    if graph == "decoder":
        return _decoder_profiles(config)
    size = config.encoder.image_size
    item = {"encoder": (size, size, 3), "mapper": (config.encoder.embed_dim,)}[graph]
    shapes = tuple((n, *item) for n in (1, USUAL_IMAGES, MAX_IMAGES))
    name = {"encoder": "pixels", "mapper": "embeddings"}[graph]
    return (EngineProfile("all", {name: (shapes[0], shapes[1], shapes[2])}),)


def _decoder_profiles(config: CaptionerConfig) -> tuple[EngineProfile, ...]:
    prompt, prefix = config.max_chunk_tokens, config.mapper.prefix_length
    verified = MAX_ROWS * VERIFY_TOKENS_A_ROW
    prefilled = _round_up(PREFILL_PROMPTS * prompt, 128)
    room = 8  # for the visual token that is none, in whole groups of eight as GEMMs like them

    def profile(
        name: str, chunk: tuple[int, int], tokens: tuple[int, int], visual: int, wanted: int
    ) -> EngineProfile:
        usual = _shapes(config, USUAL_ROWS, chunk[0], tokens[0], visual, min(wanted, USUAL_ROWS))
        most = _shapes(config, MAX_ROWS, chunk[1], tokens[1], visual, wanted)
        least = _shapes(config, 1, 1, 1, 1, 1)
        return EngineProfile(name, {key: (least[key], usual[key], most[key]) for key in least})

    many = (USUAL_ROWS * prompt // 2, prefilled)
    verify = min(MAX_DRAFT_TOKENS + 1, config.capacity)  # the last token, and a draft
    return (
        profile("decode", (1, 1), (USUAL_ROWS + room, MAX_ROWS + room), 1, MAX_ROWS + room),
        profile("verify", (verify // 2, verify), (USUAL_ROWS * 4, verified), 1, verified),
        profile("prefill", (prompt, prompt), many, PREFILL_PROMPTS * prefix, PREFILL_WANTED),
    )


def _shapes(
    config: CaptionerConfig, rows: int, chunk: int, tokens: int, visual: int, wanted: int
) -> Mapping[str, tuple[int, ...]]:
    decoder = config.decoder
    places = config.slot_positions  # as the exporter writes into the graph
    return {
        **dict.fromkeys(("token_ids", "positions", "unpad_index"), (tokens,)),
        "visual_tokens": (visual, decoder.token_width),
        "visual_index": (visual,),
        **dict.fromkeys(("query_lengths", "past_lengths"), (rows,)),
        "pad_index": (rows, chunk),
        "logit_index": (wanted,),
        "past": (rows, decoder.num_kv_heads, places, decoder.head_dim),
    }


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
