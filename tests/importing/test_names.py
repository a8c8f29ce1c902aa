"""Names of published weights: what is not known, or does not fit, is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from altogether_rt.errors import AltogetherError
from altogether_rt.importing.names import GPT2, OPT, rename
from altogether_rt.importing.structure import _HEADS

MATRIX = torch.arange(6.0).reshape(2, 3)


def test_a_weight_under_two_names_is_refused() -> None:
    """Which of them counts would depend on their order in the file."""
    weights = {"model.decoder.layers.0.fc1.weight": MATRIX, "decoder.layers.0.fc1.weight": MATRIX}
    with pytest.raises(AltogetherError, match="under two names"):
        rename(OPT, weights)


@pytest.mark.parametrize(
    ("name", "weight", "reason"),
    [
        ("layers.0.fc1", MATRIX, "does not have"),  # a module, not a parameter of it
        ("layers.0.fc9.weight", MATRIX, "does not have"),
        ("layers.0.fc1.weight", torch.zeros(2, 2, 2), "does not fit"),
        ("layers.0.fc1.weight", torch.zeros(()), "does not fit"),
        ("layers.0.fc1.weight", torch.zeros(2, 2, dtype=torch.int64), "does not fit"),
        ("layers.0.fc1.weight", MATRIX.to_sparse(), "does not fit"),
    ],
)
def test_what_a_family_does_not_have_is_refused(name: str, weight: Tensor, reason: str) -> None:
    with pytest.raises(AltogetherError, match=reason):
        rename(OPT, {name: weight})


def test_buffers_of_old_files_are_left_out() -> None:
    assert rename(OPT, {"model.decoder.version": torch.tensor([3.0])}) == {}
    buffers = {"h.0.attn.bias": torch.ones(1, 1, 4, 4), "h.11.attn.masked_bias": torch.tensor(-1e4)}
    assert rename(GPT2, buffers) == {}


def test_a_joined_weight_is_divided_along_its_outputs() -> None:
    """GPT-2 stores (in, out) matrices of query, key and value side by side."""
    weight, bias = torch.arange(18.0).reshape(2, 9), torch.arange(9.0)
    found = rename(GPT2, {"h.3.attn.c_attn.weight": weight, "h.3.attn.c_attn.bias": bias})
    for index, name in enumerate("qkv"):
        part = slice(3 * index, 3 * index + 3)
        assert torch.equal(found[f"layers.3.{name}.weight"], weight[:, part].T)
        assert torch.equal(found[f"layers.3.{name}.bias"], bias[part])
    with pytest.raises(AltogetherError, match="does not fit"):
        rename(GPT2, {"h.3.attn.c_attn.weight": torch.zeros(2, 8)})


def test_heads_of_published_decoders_have_published_widths() -> None:
    """64, 80 or 128 of OPT (table 1 of its paper), 64 of GPT-2."""
    for family, widths in (("opt", {64, 80, 128}), ("gpt2", {64})):
        heads = _HEADS[family]
        assert all(width % number == 0 for width, number in heads.items())
        assert {width // number for width, number in heads.items()} == widths
