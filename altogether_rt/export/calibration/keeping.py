"""Chooses the products of the decoder that are computed more precisely than the others.

In trained decoders a few products suffer most from rounding: one token may have a channel thousands
of times larger than the others, which then vanish in its scale. Which products those are differs
from model to model, so it is measured (`sensitivity`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from altogether_rt.config import DecoderConfig
from altogether_rt.errors import ConfigError
from altogether_rt.export.calibration.sensitivity import (
    SquaredChange,
    decoder_products,
    estimate_divergence,
    rounded_activation,
    rounded_weight,
)
from altogether_rt.export.calibration.smooth import SmoothedWeights
from altogether_rt.export.lowering.groups import LARGEST
from altogether_rt.export.recipes import LoweringNames
from altogether_rt.export.verify import Recording
from altogether_rt.export.weights import WeightSource
from altogether_rt.model.decoder import Decoder

__all__ = ["Kept", "choose_for", "choose_kept", "resolve_names"]


@dataclass(frozen=True)
class Kept:
    """Products that are computed more precisely than the recipe's others."""

    products: tuple[str, ...] = ()  # by the name of their first weight: `decoder.layers.0.fc2`
    share: float = 0.0  # of the decoder's weights
    #: Estimated cost of rounding, nats per token: of all products, and of those not kept. None: not
    #: estimated.
    estimated_kl: float | None = None
    remaining_kl: float | None = None

    def described(self) -> dict[str, Any]:
        """As a manifest has it, under `kept`; nothing if the recipe keeps nothing."""
        if self.estimated_kl is None and not self.products:
            return {}
        return {"kept": {**asdict(self), "products": list(self.products)}}


def choose_for(
    lowering: LoweringNames, decoder: Decoder, weights: SmoothedWeights, recording: Recording
) -> Kept:
    """The products that a recipe keeps: those that it names, and those that cost most.

    Raises ConfigError if it names a product that the decoder does not have.
    """
    named = resolve_names(lowering.keep, decoder.config)
    divergence: Mapping[str, float] = {}
    if lowering.keep_budget:
        samples = recording.samples
        visual_tokens = samples.of_prompts(recording.visual_tokens)
        change = _squared_change(lowering, weights)
        divergence = estimate_divergence(decoder, visual_tokens, samples.prompt_ids, change)
    return choose_kept(
        divergence,
        _sizes(decoder.config, weights),
        budget=lowering.keep_budget,
        target=lowering.keep_target,
        named=named,
    )


def _squared_change(lowering: LoweringNames, weights: SmoothedWeights) -> SquaredChange:
    """What rounding of the recipe does, where keeping a product would avoid it."""
    activations = rounded_activation(weights.input_factors)
    if lowering.linear != "int4-group":
        return activations
    groups = rounded_weight(lowering.group, LARGEST + 1)
    return lambda x, gradient, weight, name: (
        groups if name.startswith("decoder.layers.") else activations
    )(x, gradient, weight, name)


def resolve_names(patterns: Collection[str], config: DecoderConfig) -> tuple[str, ...]:
    """The products that a recipe names: a layer of a product, or all in `decoder.layers.3`.

    Raises ConfigError for a name that fits no product.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        if pattern == "decoder.head" and config.tied_head:
            pattern = "decoder.embed"
        fitting = [
            product
            for product, layers in decoder_products(config).items()
            if any(f"{layer}.".startswith(f"{pattern}.") for layer in layers)
        ]
        if not fitting:
            raise ConfigError(
                f"lowering.keep names {pattern!r}, which this decoder does not have: give names "
                "such as decoder.layers.0 or decoder.layers.0.fc2."
            )
        found.update(dict.fromkeys(fitting))
    return tuple(found)


def choose_kept(
    divergence: Mapping[str, float],
    sizes: Mapping[str, int],
    *,
    budget: float,
    target: float,
    named: Collection[str] = (),
) -> Kept:
    """Keep those whose divergence is largest for their size, until the rest costs `target`.

    divergence, sizes (weights): by product. budget: the largest share of all weights that may be
    kept beside those `named`, which are kept in any case.
    """
    total = sum(sizes.values())
    kept, room = list(named), budget * total
    rest = sum(value for name, value in divergence.items() if name not in named)
    for name in sorted(divergence, key=lambda name: -divergence[name] / sizes[name]):
        if rest <= target:
            break
        if name not in named and sizes[name] <= room:
            kept.append(name)
            room -= sizes[name]
            rest -= divergence[name]
    share = sum(sizes[name] for name in kept) / total
    estimated = (sum(divergence.values()), rest) if divergence else (None, None)
    return Kept(tuple(sorted(kept)), share, *estimated)


def _sizes(config: DecoderConfig, weights: WeightSource) -> dict[str, int]:
    return {
        product: sum(weights.get(f"{layer}.weight").size for layer in layers)
        for product, layers in decoder_products(config).items()
    }
