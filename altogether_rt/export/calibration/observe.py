"""Records the ranges of values that the torch reference computes, for quantisation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from altogether_rt.runtime.torch.runtime import TorchRuntime

__all__ = ["Calibration", "observe"]

Floats = NDArray[np.float32]
#: Inputs kept of each layer that was asked for: 8 MB at a width of 2,048.
MAX_ROWS = 2048
MAX_HALF = 65504.0  # of float16


@dataclass
class Calibration:
    """Largest absolute values seen, per channel."""

    #: By linear layer of mapper and decoder (`decoder.layers.0.q`), of its inputs: (in,).
    inputs: dict[str, Floats] = field(default_factory=dict)
    #: By LayerNorm of the encoder (its name in the module), of its outputs: (channels,).
    norms: dict[str, Floats] = field(default_factory=dict)
    #: Of the cache, by layer: (kv_heads, head_dim). Keys are taken as they are stored, after the
    #: rotary embedding if the decoder has one.
    keys: list[Floats] = field(default_factory=list)
    values: list[Floats] = field(default_factory=list)
    #: Some inputs of the layers that were asked for, (rows, in) in float16.
    rows: dict[str, NDArray[np.float16]] = field(default_factory=dict)


@contextmanager
def observe(reference: TorchRuntime, rows_of: Collection[str] = ()) -> Iterator[Calibration]:
    """Record the values that `reference` computes inside the context; the cache is read at its end.

    rows_of: layers whose first MAX_ROWS inputs are kept. Every slot is assumed to be empty at the
    start and to be used for one sequence.
    """
    calibration = Calibration()
    hooks = [
        module.register_forward_pre_hook(_input_observer(calibration.inputs, name))
        for name, module in reference.model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(("mapper.", "decoder."))
    ]
    hooks += [
        module.register_forward_pre_hook(_row_observer(calibration.rows, name))
        for name, module in reference.model.named_modules()
        if name in rows_of and isinstance(module, nn.Linear)
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


def _input_observer(
    inputs: dict[str, Floats], name: str
) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
    return lambda module, args: _update_max(inputs, name, args[0])


def _row_observer(
    rows: dict[str, NDArray[np.float16]], name: str
) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
    def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        seen = rows.get(name, np.empty((0, args[0].shape[-1]), np.float16))
        if len(seen) < MAX_ROWS:
            new = args[0].detach().reshape(-1, args[0].shape[-1])[: MAX_ROWS - len(seen)]
            rows[name] = np.concatenate([seen, new.clamp(-MAX_HALF, MAX_HALF).half().cpu().numpy()])

    return hook


def _output_observer(
    outputs: dict[str, Floats], name: str
) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
    return lambda module, args, output: _update_max(outputs, name, output)


def _update_max(seen: dict[str, Floats], name: str, x: torch.Tensor) -> None:
    """Raise the maxima of `name` to the largest absolute values in x (..., channels)."""
    largest = x.detach().abs().reshape(-1, x.shape[-1]).amax(dim=0).float().cpu().numpy()
    seen[name] = np.maximum(seen[name], largest) if name in seen else largest
