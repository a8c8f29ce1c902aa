"""Which norms and activations a device runs: Triton's kernels, or plain PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from altogether_rt.errors import reason
from altogether_rt.machine.device import has_module
from altogether_rt.runtime.torch.float8 import Float8Rows
from altogether_rt.runtime.torch.kernels import plain_rows
from altogether_rt.runtime.torch.kernels.plain_rows import Activation, NormWeights
from altogether_rt.runtime.torch.kernels.trial import distance, on_device

__all__ = [
    "PLAIN_ROWS",
    "RowKernels",
    "RowShapes",
    "choose_row_kernels",
    "row_kernel_failure",
    "triton_row_kernels",
]

_LOG = logging.getLogger(__name__)
#: Largest difference from plain PyTorch, as a fraction of a result's norm, before a kernel is
#: called wrong. Rounding makes a tenth of it at most, in bfloat16 and in fp8.
_TOLERANCE = 0.05


class _AddNorm(Protocol):
    def __call__(
        self, x: Tensor, residual: Tensor | None, norm: NormWeights, *, float8: bool = False
    ) -> tuple[Tensor, Tensor | Float8Rows]: ...


class _Activate(Protocol):
    def __call__(
        self, x: Tensor, kind: Activation, *, gated: bool = False, float8: bool = False
    ) -> Tensor | Float8Rows: ...


@dataclass(frozen=True)
class RowKernels:
    """What is computed between products; `plain_rows` documents each function."""

    add_norm: _AddNorm
    activate: _Activate


@dataclass(frozen=True)
class RowShapes:
    """The rows of a captioner: what its kernels are compiled for."""

    norms: tuple[tuple[int, bool], ...]  # width, and whether it is an RMS norm
    activations: tuple[tuple[int, Activation, bool], ...]  # width, kind, and whether it is gated


PLAIN_ROWS = RowKernels(plain_rows.add_norm, plain_rows.activate)


def triton_row_kernels() -> RowKernels:
    """Those in Triton, which this imports."""
    from altogether_rt.runtime.torch.kernels import rows

    return RowKernels(rows.add_norm, rows.activate)


def choose_row_kernels(
    device: torch.device, dtype: torch.dtype, shapes: RowShapes, *, float8: bool = False
) -> RowKernels:
    """Triton's on a GPU where they compile and agree with plain PyTorch; a warning if not."""
    if device.type != "cuda" or not has_module("triton"):
        return PLAIN_ROWS
    try:
        kernels = triton_row_kernels()
    except Exception as error:  # whatever a package raises that does not fit this PyTorch
        failure: str | None = reason(error, 300)
    else:
        failure = row_kernel_failure(kernels, device, dtype, shapes, float8=float8)
    if failure is None:
        return kernels
    _LOG.warning("norms and activations run in plain PyTorch, which is slower: %s", failure)
    return PLAIN_ROWS


def row_kernel_failure(
    kernels: RowKernels,
    device: torch.device,
    dtype: torch.dtype,
    shapes: RowShapes,
    *,
    float8: bool = False,
) -> str | None:
    """What happens when each kernel runs once on this device; None if it computes what it should.

    float8: whether products in fp8 are fed as well.
    """
    try:
        with torch.inference_mode(), on_device(device):
            for name, found, wanted in _tried(kernels, device, dtype, shapes, float8):
                difference = distance(found, wanted)
                if not difference <= _TOLERANCE:
                    return f"{name} gives other numbers than PyTorch: {difference:.3g} away"
    except Exception as error:  # Triton, its compiler, the linker and the driver raise their own
        return reason(error, 300)
    return None


def _tried(
    kernels: RowKernels, device: torch.device, dtype: torch.dtype, shapes: RowShapes, float8: bool
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What each kernel computes, and what it should: name, float32, float32."""
    generator = torch.Generator(device).manual_seed(0)

    def rows(width: int, kind: torch.dtype) -> Tensor:
        return torch.randn(2, width, device=device, generator=generator).to(kind)

    formats = (False, True) if float8 else (False,)
    for width, rms in shapes.norms:
        weight = 1 + rows(width, torch.float32)[0] / 8
        norm = NormWeights(weight, None if rms else weight - 1, 1e-5, rms)
        # A product in fp8 gives bfloat16, whatever the type of the step.
        for small in formats:
            x, residual = rows(width, torch.bfloat16 if small else dtype), rows(width, dtype)
            for given in (residual, None):
                both = [
                    each.add_norm(x, given, norm, float8=small) for each in (kernels, PLAIN_ROWS)
                ]
                if given is not None:
                    yield "a sum", both[0][0].float(), both[1][0].float()
                yield "a norm", _wide(both[0][1]), _wide(both[1][1])
    for width, kind, gated in shapes.activations:
        for small in formats if kind != "none" else (True,):  # which only rounds
            x = rows(2 * width if gated else width, torch.bfloat16 if small else dtype)
            found, wanted = (
                each.activate(x, kind, gated=gated, float8=small) for each in (kernels, PLAIN_ROWS)
            )
            yield f"the activation {kind}", _wide(found), _wide(wanted)


def _wide(x: Tensor | Float8Rows) -> Tensor:
    return x.values.float() * x.scales if isinstance(x, Float8Rows) else x.float()
