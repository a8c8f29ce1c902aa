"""4-bit quantisation by groups of input channels, with the errors compensated.

Every 32 weights of an output channel share a scale and a zero point. Rounding a channel's weights
makes an error in the product, which the channels that are not rounded yet make up for as far as the
inputs are correlated: GPTQ (Frantar et al. 2022, arXiv 2210.17323), with inputs of the calibration.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["GROUP", "LARGEST", "Groups", "pack_halves", "quantize_groups", "unpack_halves"]

Floats = NDArray[np.float32]

#: Weights that share a scale. Kernels for 32 give a row the same bits in any batch; those for 64
#: and more do not (onnxruntime 1.32).
GROUP = 32
LARGEST = 15  # of a 4-bit value
#: Added to the diagonal of the inputs' second moments, as a fraction of its mean: inputs unlike the
#: samples count too.
_DAMPING = 0.05
#: Parts of a group's range that are tried as its scale: clipping its ends can cost less.
_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)


class Groups(NamedTuple):
    """(values[o, i] - zeros[o, i // GROUP]) * scales[o, i // GROUP] approximates weight[o, i]."""

    values: NDArray[np.uint8]  # (out, groups * GROUP), 0 to 15
    scales: Floats  # (out, groups), positive
    zeros: NDArray[np.uint8]  # (out, groups), 0 to 15

    def weight(self) -> Floats:
        """The approximated weight, (out, groups * GROUP)."""
        values = self.values.astype(np.float32) - np.repeat(self.zeros, GROUP, axis=1)
        result: Floats = (values * np.repeat(self.scales, GROUP, axis=1)).astype(np.float32)
        return result


def quantize_groups(weight: Floats, inputs: Floats | None = None) -> Groups:
    """Quantise a (out, in) matrix; groups beyond the last input channel are filled with zeros.

    inputs: (rows, in) inputs of the product, for the compensation; None: each weight is rounded by
    itself.
    """
    outer, inner = weight.shape
    width = -(-inner // GROUP) * GROUP
    rest = np.zeros((width, outer), np.float32)  # transposed: a channel's weights are contiguous
    rest[:inner] = weight.T
    inverse = None if inputs is None else _inverse_factor(inputs, width)
    values = np.zeros((width, outer), np.uint8)
    scales = np.zeros((width // GROUP, outer), np.float32)
    zeros = np.zeros((width // GROUP, outer), np.uint8)
    for index, start in enumerate(range(0, width, GROUP)):
        end = start + GROUP
        group = rest[start:end]
        scale, zero = scales[index], zeros[index] = _ranges(group)
        if inverse is None:
            values[start:end] = _round(group, scale, zero)
            continue
        errors = np.empty((GROUP, outer), np.float32)
        for offset, factors in enumerate(inverse[start:end, start:end]):
            rounded = _round(group[offset], scale, zero)
            values[start + offset] = rounded
            wrong = group[offset] - (rounded - zero.astype(np.float32)) * scale
            errors[offset] = wrong / factors[offset]
            group[offset + 1 :] -= factors[offset + 1 :, None] * errors[offset]
        rest[end:] -= inverse[start:end, end:].T @ errors
    return Groups(values.T, scales.T, zeros.T)


def pack_halves(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two 4-bit values per byte along the last axis, the first in the lower half."""
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros_like(values[..., :1])], axis=-1)
    packed: NDArray[np.uint8] = values[..., 0::2] | np.left_shift(values[..., 1::2], np.uint8(4))
    return packed


def unpack_halves(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The inverse of `pack_halves`, with an even number of values along the last axis."""
    halves = np.stack([packed & 15, packed >> 4], axis=-1)
    values: NDArray[np.uint8] = halves.reshape(*packed.shape[:-1], -1)
    return values


def _round(weights: Floats, scale: Floats, zero: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = np.clip(np.rint(weights / scale) + zero, 0, LARGEST).astype(
        np.uint8
    )
    return rounded


def _ranges(group: Floats) -> tuple[Floats, NDArray[np.uint8]]:
    """The scale and zero point that round each column of (GROUP, out) best, (out,) each."""
    low, high = np.minimum(group.min(axis=0), 0), np.maximum(group.max(axis=0), 0)
    best = np.full(group.shape[1], np.inf, np.float32)
    scales, zeros = np.ones_like(best), np.zeros(len(best), np.uint8)
    for shrink in _SHRINKS:
        scale = np.where(high > low, (high - low) * np.float32(shrink) / LARGEST, 1)
        scale = scale.astype(np.float32)
        zero = np.clip(np.rint(-low * np.float32(shrink) / scale), 0, LARGEST).astype(np.uint8)
        restored = (_round(group, scale, zero) - zero.astype(np.float32)) * scale
        errors = np.square(restored - group).sum(axis=0)
        better = errors < best
        best = np.where(better, errors, best)
        scales, zeros = np.where(better, scale, scales), np.where(better, zero, zeros)
    return scales, zeros


def _inverse_factor(inputs: Floats, width: int) -> Floats:
    """The upper Cholesky factor of the inverse of the inputs' damped second moments."""
    padded = np.zeros((len(inputs), width), np.float32)
    padded[:, : inputs.shape[1]] = inputs
    moments = (padded.T @ padded).astype(np.float64)
    mean = float(np.trace(moments)) / width
    moments[np.diag_indices(width)] += _DAMPING * mean if mean > 0 else 1.0
    factor: Floats = np.linalg.cholesky(np.linalg.inv(moments)).T.astype(np.float32)
    return factor
