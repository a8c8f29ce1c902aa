"""What the reference computed on the samples, as far as quantisation has to know it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from altogether_rt.runtime.torch.runtime import TorchRuntime

__all__ = ["Calibration", "calibrating"]

Floats = NDArray[np.float32]


@dataclass
class Calibration:
    """Largest absolute values seen, by channel."""

    #: For each linear layer of mapper and decoder (`decoder.layers.0.q`), of its input: (in,).
    inputs: dict[str, Floats] = field(default_factory=dict)
    #: For each norm of the encoder (by its name in it), of its output: (channels,).
    norms: dict[str, Floats] = field(default_factory=dict)
    #: Of the cache, for each layer: (kv_heads, head_dim). Keys are meant as they are stored,
    #: turned by their position where the decoder does that.
    keys: list[Floats] = field(default_factory=list)
    values: list[Floats] = field(default_factory=list)


@contextmanager
def calibrating(reference: TorchRuntime) -> Iterator[Calibration]:
    """Observes all that `reference` computes while this lasts; the cache is looked at in the end.

    Slots are taken to be used from empty, each for one sequence, so that what they hold is what
    was computed.
    """
    calibration = Calibration()
    hooks = [
        module.register_forward_pre_hook(_observer(calibration.inputs, name))
        for name, module in reference.model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(("mapper.", "decoder."))
    ]
    encoder = reference.model.encoder
    hooks += [
        module.register_forward_hook(_output_observer(calibration.norms, name))
        for name, module in (encoder.named_modules() if encoder is not None else ())
        if isinstance(module, nn.LayerNorm)
    ]
    try:
        yield calibration
    finally:
        for hook in hooks:
            hook.remove()
    for part, seen in (
        (reference.cache.keys, calibration.keys),
        (reference.cache.values, calibration.values),
    ):
        seen += [layer.abs().amax(dim=(0, 2)).float().cpu().numpy() for layer in part]


def _observer(
    inputs: dict[str, Floats], name: str
) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
    return lambda module, args: _note(inputs, name, args[0])


def _output_observer(
    outputs: dict[str, Floats], name: str
) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
    return lambda module, args, output: _note(outputs, name, output)


def _note(seen: dict[str, Floats], name: str, x: torch.Tensor) -> None:
    largest = x.detach().abs().reshape(-1, x.shape[-1]).amax(dim=0).float().cpu().numpy()
    seen[name] = np.maximum(seen[name], largest) if name in seen else largest
