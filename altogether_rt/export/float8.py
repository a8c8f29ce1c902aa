"""Prepares a torch captioner for fp8: outliers smoothed, layers replaced, parity measured.

The same smoothing as for int8 (`calibration.smooth`): e4m3 has a wider range than int8, but a row
with an outlier still gives its other values the coarse end of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from altogether_rt.export.calibration.observe import Calibration, observe
from altogether_rt.export.calibration.smooth import SmoothedWeights
from altogether_rt.export.calibration.smooth_encoder import smooth_encoder
from altogether_rt.export.recipes import Threshold
from altogether_rt.export.samples import Samples
from altogether_rt.export.verify import Recording, check_parity, compare, record
from altogether_rt.export.weights import MappedWeights
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.runtime.base import Runtime
from altogether_rt.runtime.torch.float8 import to_float8
from altogether_rt.runtime.torch.runtime import TorchRuntime

__all__ = ["check_float8", "convert_to_float8", "observed", "smooth_model"]

#: Half of an outlier, on a logarithmic scale, moves into the weights; as in the recipes for int8.
STRENGTH = 0.5
_ENCODER = "encoder."


def observed(
    model: CaptionerModel, samples: Samples, device: str = "cpu"
) -> tuple[Recording, Calibration]:
    """Run `model` on the samples in the type of its weights: what it computed, and its ranges.

    The model is moved to `device` and stays there.
    """
    slots = len(samples.prompt_ids)
    with (
        # A captured step calls no hook, and what a hook reads may not be waited for in a capture.
        TorchRuntime(model, num_slots=slots, device=device, fixed_decode=False) as reference,
        observe(reference) as calibration,
    ):
        recording = record(reference, samples)
    return recording, calibration


def smooth_model(
    model: CaptionerModel, calibration: Calibration, strength: float = STRENGTH
) -> None:
    """Move outliers of activations into weights, in place; what `model` computes stays the same."""
    parameters = {
        name: parameter
        for name, parameter in model.named_parameters()
        if not name.startswith("encoder.")
    }
    arrays = {name: parameter.detach().cpu().numpy() for name, parameter in parameters.items()}
    smoothed = SmoothedWeights(MappedWeights(arrays), model.config, calibration, strength)
    changed = {name: torch.from_numpy(smoothed.get(name).copy()) for name in parameters}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(changed[name])
    if model.encoder is not None:
        smooth_encoder(model.encoder, calibration.norms, strength)


def convert_to_float8(
    model: CaptionerModel, *, decoder: bool = True, decode: bool = False
) -> tuple[str, ...]:
    """Replace the linear layers of encoder, mapper and decoder; returns their names.

    decoder: whether its layers are replaced. decode: whether decode steps are in fp8 too. If not,
    the decoder keeps both forms of its layers, and the runtime chooses by phase
    (`float8.in_float8`). The head stays as it is: its errors go straight into the choice of a
    token.
    """
    called = _called_layers(model.encoder, model.config.encoder.image_size)

    def wanted(name: str) -> bool:
        if name.startswith(_ENCODER):
            return name.removeprefix(_ENCODER) in called
        return name != "decoder.head" and (decoder or not name.startswith("decoder."))

    return to_float8(
        model, wanted, keep_plain=lambda name: not decode and name.startswith("decoder.")
    )


def _called_layers(encoder: nn.Module | None, image_size: int) -> set[str]:
    """Names of the linear layers that an encoder calls; of others its attention reads the weights
    itself, so they cannot be replaced."""
    called: set[str] = set()
    if encoder is None:
        return called

    def watch(name: str) -> Any:
        return lambda module, args: called.add(name)

    hooks = [
        module.register_forward_pre_hook(watch(name))
        for name, module in encoder.named_modules()
        if type(module) is nn.Linear
    ]
    with torch.inference_mode():
        device = next(encoder.parameters()).device
        encoder(torch.zeros(1, image_size, image_size, 3, dtype=torch.uint8, device=device))
    for hook in hooks:
        hook.remove()
    return called


def check_float8(
    recording: Recording, candidate: Runtime, thresholds: Mapping[str, Threshold]
) -> dict[str, Any]:
    """The parity figures of a runtime that computes in fp8, as a manifest lists them.

    thresholds: of the recipe. Raises ParityError if a figure misses its threshold.
    """
    return check_parity(compare(recording, candidate), thresholds)
