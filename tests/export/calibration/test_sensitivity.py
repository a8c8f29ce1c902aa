"""What rounding costs, estimated from gradients, against what it costs when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from altogether_rt.errors import ConfigError
from altogether_rt.export.calibration.keeping import Kept, choose_kept, resolve_names
from altogether_rt.export.calibration.sensitivity import (
    decoder_products,
    estimate_divergence,
    rounded_activation,
    rounded_weight,
)
from altogether_rt.model.decoder import Decoder
from tests.tiny import FAMILIES, VOCAB_SIZE, tiny_config, tiny_model

PROMPTS = [[int(i) for i in np.random.default_rng(n).integers(3, VOCAB_SIZE, 24)] for n in range(8)]
VISUAL = np.random.default_rng(9).normal(size=(8, 4, 64)).astype(np.float32)


@contextmanager
def noisy(decoder: Decoder, product: str, size: float) -> Iterator[None]:
    """While this lasts, the product's layers add the noise that the estimate is told of."""
    hooks = [
        decoder.get_submodule(name.removeprefix("decoder.")).register_forward_hook(
            lambda module, args, output: output + noise(output.shape, size)
        )
        for name in decoder_products(decoder.config)[product]
    ]
    yield
    for hook in hooks:
        hook.remove()


def noise(shape: tuple[int, ...], size: float) -> Tensor:
    return size * torch.randn(shape)


def log_probabilities(decoder: Decoder) -> Tensor:
    rows = []
    for visual, ids in zip(VISUAL, PROMPTS, strict=True):
        words = decoder.embed(torch.tensor(ids))
        x = torch.cat([torch.from_numpy(visual), words])[None]
        rows.append(decoder.logits(decoder(x)[0, len(visual) - 1 :]).log_softmax(-1))
    return torch.cat(rows).double()


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_the_estimate_is_the_divergence(family: str) -> None:
    """Within a factor of two for each product, and within a third for all of them."""
    decoder = tiny_model(tiny_config(family)).decoder
    size = 0.02
    torch.manual_seed(0)
    found = estimate_divergence(
        decoder,
        VISUAL,
        PROMPTS,
        lambda x, gradient, weight, name: (
            (gradient * noise(gradient.shape, size)).sum(-1).square().sum()
        ),
    )
    with torch.no_grad():
        exact = log_probabilities(decoder)
        measured = {}
        for product in found:
            if product in ("decoder.embed", "decoder.head"):
                continue  # no module computes them
            divergences = []
            for _ in range(4):
                with noisy(decoder, product, size):
                    wrong = log_probabilities(decoder)
                divergences.append(float((exact.exp() * (exact - wrong)).sum(-1).mean()))
            measured[product] = float(np.mean(divergences))
    ratios = {product: found[product] / value for product, value in measured.items()}
    assert all(0.5 < ratio < 2 for ratio in ratios.values()), ratios
    total = sum(found[product] for product in measured) / sum(measured.values())
    assert 0.67 < total < 1.5


@pytest.mark.parametrize("family", FAMILIES)
def test_every_product_is_watched(family: str) -> None:
    decoder = tiny_model(tiny_config(family)).decoder
    width = decoder.config.token_width
    found = estimate_divergence(
        decoder, VISUAL[..., :width], PROMPTS, rounded_activation(lambda name: None)
    )
    assert set(found) == set(decoder_products(decoder.config))
    assert all(value > 0 for value in found.values())
    assert all(parameter.requires_grad for parameter in decoder.parameters())
    assert all(parameter.grad is None for parameter in decoder.parameters())


def test_an_outlier_costs_most() -> None:
    decoder = tiny_model(tiny_config("llama")).decoder
    with torch.no_grad():
        decoder.layers[1].fc1.weight[5] *= 3000  # type: ignore[union-attr,index,operator]
        decoder.layers[1].fc2.weight[:, 5] /= 3000  # type: ignore[union-attr,index,operator]
    error = rounded_activation(lambda name: None)
    found = estimate_divergence(decoder, VISUAL, PROMPTS, error)
    worst = max(found, key=lambda name: found[name])
    assert worst == "decoder.layers.1.fc2"
    factors = np.ones(96, np.float32)
    factors[5] = 3000
    smooth = rounded_activation(lambda name: factors if name == worst else None)
    assert estimate_divergence(decoder, VISUAL, PROMPTS, smooth)[worst] < 0.05 * found[worst]


DIVERGENCE = {"a": 0.5, "b": 0.4, "c": 0.09, "d": 0.01}
SIZES = {"a": 50, "b": 10, "c": 30, "d": 10}


def test_the_costliest_for_their_size_are_kept_within_the_budget() -> None:
    kept = choose_kept(DIVERGENCE, SIZES, budget=0.4, target=0.0)
    assert kept.products == ("b", "c")  # a does not fit, d is not needed for the room that is left
    assert kept.share == pytest.approx(0.4)
    assert kept.estimated_kl == pytest.approx(1.0)
    assert kept.remaining_kl == pytest.approx(0.51)


def test_no_more_are_kept_than_the_target_needs() -> None:
    kept = choose_kept(DIVERGENCE, SIZES, budget=1.0, target=0.6)
    assert kept.products == ("b",)
    assert choose_kept(DIVERGENCE, SIZES, budget=1.0, target=1.0).products == ()


def test_named_products_are_kept_in_any_case() -> None:
    kept = choose_kept(DIVERGENCE, SIZES, budget=0.1, target=0.0, named=["a"])
    assert kept.products == ("a", "b")
    assert kept.described()["kept"]["share"] == pytest.approx(0.6)
    assert Kept().described() == {}


def test_names_of_layers_and_products() -> None:
    config = tiny_config("llama").decoder
    layer = tuple(f"decoder.layers.1.{name}" for name in ("q", "out", "gate", "fc2"))
    assert resolve_names(["decoder.layers.1"], config) == layer
    assert resolve_names(["decoder.layers.0.v", "decoder.head"], config) == (
        "decoder.layers.0.q",  # fused with it
        "decoder.head",
    )
    with pytest.raises(
        ConfigError, match=r"'decoder\.layers\.7', which this decoder does not have"
    ):
        resolve_names(["decoder.layers.7"], config)


def test_the_error_of_rounded_weights_is_that_of_its_formula() -> None:
    """Against the mean over random errors, evenly distributed within a step."""
    rng = np.random.default_rng(1)
    x, gradient, weight = (
        torch.from_numpy(rng.normal(size=shape)) for shape in ((6, 64), (6, 8), (8, 64))
    )
    found = float(rounded_weight(32, 16)(x, gradient, weight, "any"))
    grouped = weight.numpy().reshape(8, 2, 32)
    step = np.repeat(np.ptp(grouped, axis=-1) / 15, 32, axis=1)
    changes = [
        np.square(np.einsum("to,oi,ti->", gradient, step * rng.uniform(-0.5, 0.5, (8, 64)), x))
        for _ in range(4000)
    ]
    assert found == pytest.approx(np.mean(changes), rel=0.15)
