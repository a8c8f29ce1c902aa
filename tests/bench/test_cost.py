"""Operations and bytes: against torch's own count, and against sums written out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from altogether_rt.bench.ceilings import Ceilings
from altogether_rt.bench.cost import Cost
from altogether_rt.bench.roofline import (
    decoder_cost,
    decoder_layer_weights,
    mapper_cost,
    schedule_cost,
)
from altogether_rt.bench.vision_cost import encoder_cost
from altogether_rt.config import (
    CaptionerConfig,
    DecoderConfig,
    EncoderConfig,
    MapperConfig,
    PromptConfig,
)

pytestmark = pytest.mark.lean

DECODER = DecoderConfig(
    vocab_size=100, layers=2, width=8, heads=2, ffn_width=16, max_positions=64, eos_id=2, pad_id=1
)
#: The published captioner: the paper's figures can be checked against it.
PUBLISHED = CaptionerConfig(
    "published",
    EncoderConfig("ViT-H-14-quickgelu", 1024),
    MapperConfig(),
    DecoderConfig(
        vocab_size=50272, layers=24, width=2048, heads=32, ffn_width=8192, max_positions=2048,
        eos_id=2, pad_id=1,
    ),
    PromptConfig(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("vision", "embed_dim", "linear", "attention"),
    [
        # `linear` is what torch.utils.flop_counter counts on open_clip's own module.
        ({"layers": [1, 1, 1, 1], "width": 24, "head_width": 64}, 256, 83140608, 4 * 5**2 * 768),
        ({"layers": [1, 2, 1, 1], "width": 16, "head_width": 64}, 32, 38617088, 4 * 5**2 * 512),
        ({"layers": 3, "width": 96, "patch_size": 16}, 32, 13645824, 3 * 4 * 17**2 * 96),
    ],
)
def test_encoder_cost(vision: dict[str, Any], embed_dim: int, linear: int, attention: int) -> None:
    model = {"embed_dim": embed_dim, "vision_cfg": {"image_size": 64, **vision}}
    encoder = EncoderConfig("x", embed_dim, image_size=64, model=model)
    one = encoder_cost(encoder, 1, 4)
    assert one is not None
    assert (one.linear, one.attention) == (linear, attention)
    three = encoder_cost(encoder, 3, 1)
    assert three == Cost(3 * linear, 3 * attention, one.bytes // 4)  # weights are read once


def test_encoder_cost_of_what_is_only_named_is_not_guessed() -> None:
    assert encoder_cost(PUBLISHED.encoder, 1, 4) is None
    timm = {"vision_cfg": {"timm_model_name": "vit_base", "image_size": 64}}
    assert encoder_cost(EncoderConfig("x", 8, model=timm), 1, 4) is None


def test_published_mapper_has_its_published_size() -> None:
    cost = mapper_cost(PUBLISHED, 1, 1)
    biases_norms_prefix = (
        40 * 2048 + 40 * 2048  # bias of the unfolding map, learned prefix
        + 8 * (2048 + 4 * 2048 + 4096 + 2048)  # output bias, two norms, feed-forward biases
    )  # fmt: skip
    assert (cost.bytes + biases_norms_prefix) / 1e6 == pytest.approx(352.6, abs=0.05)


def test_mapper_cost_by_hand() -> None:
    config = replace(
        PUBLISHED,
        encoder=EncoderConfig("x", 3),
        mapper=MapperConfig(prefix_length=2, clip_length=4, layers=5, heads=2, mlp_ratio=2.0),
        decoder=DECODER,
        prompt=PromptConfig(max_alt_tokens=8),
    )
    layer = 4 * 8 * 8 + 2 * 8 * 16
    assert mapper_cost(config, 7, 4) == Cost(
        linear=7 * 2 * (3 * 4 * 8 + 6 * 5 * layer),
        attention=7 * 5 * 2 * 2 * 6 * 6 * 8,
        bytes=4 * (3 * 4 * 8 + 5 * layer),
    )
    mlp = replace(config, mapper=MapperConfig(kind="mlp", prefix_length=2))
    assert mapper_cost(mlp, 7, 4) == Cost(7 * 2 * (3 * 8 + 8 * 16), 0, 4 * (3 * 8 + 8 * 16))


def test_decoder_cost_by_hand() -> None:
    layer = 4 * 8 * 8 + 2 * 8 * 16
    assert decoder_layer_weights(DECODER) == layer
    # Row 0 brings 3 tokens to an empty slot (they see 1 + 2 + 3), row 1 one token to 5 (sees 6).
    assert decoder_cost(DECODER, [3, 1], [0, 5], 2, 1, 4) == Cost(
        linear=2 * (4 * 2 * layer + 2 * 8 * 100),
        attention=2 * 2 * (2 * 8) * (6 + 6),
        bytes=2 * layer + 8 * 100 + 4 * 8 + 4 * (2 * 8 * 2) * (6 + 7),
    )


def test_grouped_heads_and_gates_change_the_count() -> None:
    grouped = replace(DECODER, kv_heads=1, gated=True)
    assert decoder_layer_weights(grouped) == 2 * 64 + 2 * 8 * 4 + 3 * 8 * 16
    full, half = (decoder_cost(d, [1], [9], 1, 0) for d in (DECODER, grouped))
    assert half.bytes * 2 == full.bytes  # the cache alone, as a weight has no bytes here
    narrow = replace(DECODER, embed_width=4)
    assert (
        decoder_cost(narrow, [1], [0], 0, 0).linear - decoder_cost(DECODER, [1], [0], 0, 0).linear
        == 2 * 2 * 4 * 8
    )


def test_published_decoder_has_its_published_size() -> None:
    """OPT-1.3B: 1,315.8 M parameters, of which 4.2 M positions and some biases are not counted."""
    weights = decoder_cost(PUBLISHED.decoder, [1], [0], 1, 1, 0).bytes
    assert weights / 1e6 == pytest.approx(1310.9, abs=0.2)


def test_schedule_writes_every_token_once() -> None:
    costs = schedule_cost(DECODER, [4, 6], [3, 1], 1)
    assert costs == [
        decoder_cost(DECODER, [4, 6], [0, 0], 2, 1),  # the first token of both
        decoder_cost(DECODER, [1], [4], 1, 1),
        decoder_cost(DECODER, [1], [5], 1, 1),
    ]


def test_floor_is_the_slower_of_computing_and_moving() -> None:
    ceilings = Ceilings(threads=2, int8_per_s=1000, fp32_per_s=100, bytes_per_s=10)
    cost = Cost(linear=2000, attention=50, bytes=20)
    assert cost.operations == 2050
    assert cost.floor_s(ceilings, int8=True) == pytest.approx(2000 / 1000 + 50 / 100)
    assert cost.floor_s(ceilings, int8=False) == pytest.approx(2000 / 100 + 50 / 100)
    assert Cost(linear=1, bytes=20).floor_s(ceilings, int8=True) == 2
    assert cost + cost == Cost(4000, 100, 40)


def test_layers_may_be_narrower_than_the_head() -> None:
    """Half a byte saved for each weight of the layers, and for nothing else."""
    whole, narrow = (decoder_cost(DECODER, [1], [0], 1, 1, 4, size) for size in (None, 0.5))
    weights = DECODER.layers * decoder_layer_weights(DECODER)
    assert whole.bytes - narrow.bytes == weights // 2
    assert whole.linear == narrow.linear
