"""Attention of an encoder as one operator: what it computes, and where it is left as it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from altogether_rt.config import EncoderConfig
from altogether_rt.export.packed_attention import packed_attention
from altogether_rt.model.encoder import build_encoder
from tests.export.test_encoder import TEXT, TOWERS, export, run


def encoder(quick_gelu: bool = True) -> tuple[EncoderConfig, nn.Module]:
    model = {"embed_dim": 32, "vision_cfg": TOWERS["vit"], "text_cfg": TEXT}
    config = EncoderConfig("vit", 32, 64, model={**model, "quick_gelu": quick_gelu})
    torch.manual_seed(0)
    module = build_encoder(config)
    with torch.no_grad():
        for parameter in module.parameters():  # new ones have biases of zero
            parameter.add_(torch.randn_like(parameter) / 20)
    return config, module


def test_an_encoder_of_open_clip_moves_no_heads(tmp_path: Path) -> None:
    """Two blocks of a ViT: what is left of a transpose is the patches' and the pixels'."""
    config, module = encoder()
    path = export(module, config, "cuda-fp16", tmp_path)
    kinds = Counter(n.op_type for n in onnx.load(path, load_external_data=False).graph.node)
    assert (kinds["Attention"], kinds["Split"]) == (2, 2)
    assert (kinds["Transpose"], kinds["Reshape"], kinds["Squeeze"]) == (2, 1, 0)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    pixels[1] //= 4
    with torch.no_grad():
        wanted = module(torch.from_numpy(pixels)).numpy()
    assert ((run(path, pixels) * wanted).sum(-1) > 0.9999).all()
    assert all("forward" not in vars(child) for child in module.modules())


def test_other_targets_are_written_as_torch_writes_them(tmp_path: Path) -> None:
    config, module = encoder()
    for target in ("cpu-fp32", "tensorrt-fp16"):
        path = export(module, config, target, tmp_path)
        kinds = Counter(n.op_type for n in onnx.load(path, load_external_data=False).graph.node)
        assert kinds["Split"] == 0 and kinds["Transpose"] > 10


def attention(**options: bool) -> nn.MultiheadAttention:
    torch.manual_seed(1)
    return nn.MultiheadAttention(16, 2, **{"batch_first": True, **options}).eval()


@torch.no_grad()
def test_masks_and_other_keys_are_torch_s_own() -> None:
    module, x = attention(), torch.randn(2, 5, 16)
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
    padding = torch.tensor([[False] * 4 + [True]] * 2)

    def answers() -> list[Tensor]:
        other = x + 1
        return [
            module(x, x, x, need_weights=False)[0],
            module(x, x, x, need_weights=False, attn_mask=mask)[0],
            module(x, x, x, need_weights=False, attn_mask=mask, is_causal=True)[0],
            module(x, x, x, need_weights=False, key_padding_mask=padding)[0],
            module(x, other, other, need_weights=False)[0],
            module(x[0], x[0], x[0], need_weights=False)[0],
            *module(x, x, x),
        ]

    wanted = answers()
    with packed_attention(nn.ModuleList([module])) as num_packed:
        assert num_packed == 1
        found = answers()
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "options", [{"batch_first": False}, {"add_bias_kv": True}, {"add_zero_attn": True}]
)
def test_attentions_that_it_does_not_compute(options: dict[str, bool]) -> None:
    with packed_attention(attention(**options)) as num_packed:
        assert num_packed == 0
    with packed_attention(attention().train()) as num_packed:
        assert num_packed == 0


def test_it_is_undone_when_tracing_fails() -> None:
    module = attention()

    def trace() -> None:
        with packed_attention(module):
            assert "forward" in vars(module)
            raise ValueError("no trace")

    with pytest.raises(ValueError, match="no trace"):
        trace()
    assert "forward" not in vars(module)
