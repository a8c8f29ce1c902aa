"""Where training runs."""

from __future__ import annotations

import torch

from altogether_rt.errors import AltogetherError
from altogether_rt.machine.device import find_gpu, parse_device

__all__ = ["device_name", "device_of", "generator_state", "set_generator_state", "training_device"]


def training_device(name: str) -> torch.device:
    """The device that `--device` means; auto is the first GPU that torch can use, or the CPU.

    Raises AltogetherError if torch cannot use it.
    """
    wanted = parse_device(name)
    if wanted.kind == "tensorrt":
        raise AltogetherError("TensorRT does not train: give --device cuda.")
    if wanted.kind == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if wanted.kind == "cpu":
        return torch.device("cpu")
    find_gpu(wanted)
    if not torch.cuda.is_available():
        raise AltogetherError(
            f"the installed torch {torch.__version__} cannot use the GPU: install a build of torch "
            "with CUDA, or use --device cpu."
        )
    return torch.device("cuda", wanted.index or 0)


def device_name(device: torch.device) -> str | None:
    """The GPU's name; None for the CPU, whose kind does not decide a run's numbers."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def device_of(module: torch.nn.Module) -> torch.device:
    """Where a module's parameters are."""
    return next(module.parameters()).device


def generator_state(device: torch.device) -> dict[str, torch.Tensor]:
    """States of torch's random generators that a step on `device` may draw from."""
    states = {"generator": torch.get_rng_state()}
    if device.type == "cuda":
        states["device_generator"] = torch.cuda.get_rng_state(device)
    return states


def set_generator_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Restore what `generator_state` gave, perhaps on another kind of device."""
    torch.set_rng_state(states["generator"])
    if device.type == "cuda" and "device_generator" in states:
        torch.cuda.set_rng_state(states["device_generator"], device)
