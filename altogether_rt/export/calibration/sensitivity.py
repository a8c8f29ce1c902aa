"""Estimates what an error in each product of the decoder costs.

An error e of a product's result changes the log-probability of a token by about g · e, where g is
the gradient. The Kullback-Leibler divergence from the exact distribution is half the mean of its
square over tokens drawn from that distribution (the Fisher information: Theis et al. 2018,
arXiv 1801.05787). So one forward and one backward pass estimate the cost of all products at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from altogether_rt.config import DecoderConfig
from altogether_rt.export.lowering.quantize import INT8_MAX
from altogether_rt.model.decoder import Decoder

__all__ = [
    "SquaredChange",
    "decoder_products",
    "estimate_divergence",
    "rounded_activation",
    "rounded_weight",
]

#: Sequences that the estimate is made on, and tokens of each after the visual tokens.
MAX_SEQUENCES, MAX_TOKENS = 8, 48
SEED = 20241022

#: x (S, in), the gradient of its product (S, out), weight (out, in), the layer's name -> the sum
#: of squared changes of log-probabilities over S tokens.
SquaredChange = Callable[[Tensor, Tensor, Tensor, str], Tensor]


def decoder_products(config: DecoderConfig) -> dict[str, tuple[str, ...]]:
    """The layers that `export.decoder` fuses in each product, by the name of the first."""
    inner = ("gate", "fc1") if config.gated else ("fc1",)
    products = [
        tuple(f"layers.{index}.{name}" for name in names)
        for index in range(config.layers)
        for names in (("q", "k", "v"), ("out",), inner, ("fc2",))
    ]
    if config.embed_width is not None:
        products += [("project_in",), ("project_out",)]
    products.append(("embed",) if config.tied_head else ("head",))
    return {f"decoder.{p[0]}": tuple(f"decoder.{name}" for name in p) for p in products}


def rounded_activation(
    factors: Callable[[str], NDArray[np.float32] | None],
) -> SquaredChange:
    """Of a product whose input is rounded to int8 by row.

    factors: what smoothing divides the input channels of a layer by; None: nothing. Rounding errors
    of different tokens are independent, so their squares are added.
    """

    def change(x: Tensor, gradient: Tensor, weight: Tensor, name: str) -> Tensor:
        divided = factors(name)
        scale = torch.from_numpy(divided) if divided is not None else torch.ones(x.shape[-1])
        smooth = x / scale
        step = smooth.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / INT8_MAX
        wrong = F.linear((torch.round(smooth / step) * step - smooth) * scale, weight)
        return (gradient * wrong).sum(dim=-1).double().square().sum()

    return change


def rounded_weight(group: int, levels: int) -> SquaredChange:
    """Of a product whose weights are rounded to `levels` numbers in each group of input channels.

    The errors are the same for all tokens of a sequence. They are taken to be independent of each
    other and evenly distributed within a step: a twelfth of its square.
    """

    def change(x: Tensor, gradient: Tensor, weight: Tensor, name: str) -> Tensor:
        whole = weight.shape[1] // group * group  # a smaller last group is left out
        shape = (len(weight), -1, group)
        grouped = weight[:, :whole].reshape(shape)
        step = (grouped.amax(dim=-1) - grouped.amin(dim=-1)) / (levels - 1)  # (out, groups)
        of_weights = (gradient.T @ x)[:, :whole].reshape(shape).square().sum(dim=-1)
        total: Tensor = (of_weights.double() * step.double().square()).sum() / 12
        return total

    return change


def estimate_divergence(
    decoder: Decoder,
    visual_tokens: NDArray[np.float32],
    prompts: Sequence[Sequence[int]],
    change: SquaredChange,
) -> dict[str, float]:
    """The divergence, in nats per token, that the error in each product of the decoder costs.

    visual_tokens: (N, P, W). prompts: N lists of token ids that follow them.
    """
    products = decoder_products(decoder.config)
    product_of = {layer: name for name, layers in products.items() for layer in layers}
    sums = dict.fromkeys(products, 0.0)
    generator = torch.Generator().manual_seed(SEED)
    tokens = 0

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Linear | nn.Embedding, args: tuple[Tensor], output: Tensor) -> None:
            x, weight = args[0].detach().flatten(0, -2), module.weight.detach()
            watched: Any = output  # its types are missing

            def add(gradient: Tensor) -> None:
                sums[product_of[name]] += 0.5 * float(
                    change(x, gradient.flatten(0, -2), weight, name)
                )

            watched.register_hook(add)

        return hook

    hooks = [
        module.register_forward_hook(watch(f"decoder.{name}"))
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear)
    ]
    head = "decoder.embed" if decoder.head is None else "decoder.head"
    weight_of_head = decoder.embed if decoder.head is None else decoder.head
    try:
        with torch.enable_grad(), _frozen(decoder):
            for visual, ids in list(zip(visual_tokens, prompts, strict=True))[:MAX_SEQUENCES]:
                hidden = _hidden(decoder, visual, list(ids)[:MAX_TOKENS])  # (S, W)
                logits = decoder.logits(hidden)
                watch(head)(weight_of_head, (hidden,), logits)  # no module computes it
                likelihood = torch.log_softmax(logits, dim=-1)
                drawn = torch.multinomial(likelihood.detach().exp(), 1, generator=generator)
                (-likelihood.gather(1, drawn).sum()).backward()  # type: ignore[no-untyped-call]
                tokens += len(hidden)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / max(tokens, 1) for name, total in sums.items()}


def _hidden(decoder: Decoder, visual: NDArray[np.float32], ids: list[int]) -> Tensor:
    """Hidden states from the last visual token on, with gradients."""
    words = decoder.embed(torch.tensor(ids, dtype=torch.long))
    x = torch.cat([torch.from_numpy(visual), words])[None].requires_grad_()
    hidden: Tensor = decoder(x)[0, len(visual) - 1 :]
    return hidden


class _frozen:
    """Inside, the module's parameters get no gradients."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = [p for p in module.parameters() if p.requires_grad]

    def __enter__(self) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_: Any) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(True)
