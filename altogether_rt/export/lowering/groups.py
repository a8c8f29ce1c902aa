"""4-bit quantisation by groups of input channels, with the errors compensated.

Weights of a group of an output channel share a scale and a zero point. Rounding a channel's
weights makes an error in the product, which the channels that are not rounded yet make up for as
far as the inputs are correlated: GPTQ (Frantar et al. 2022, arXiv 2210.17323), with inputs of the
calibration.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LARGEST",
    "Groups",
    "group_for",
    "pack_halves",
    "quantize_groups",
    "unpack_halves",
]

Floats = NDArray[np.float32]

LARGEST = 15  # of a 4-bit value
#: Added to the diagonal of the inputs' second moments, as a fraction of its mean: inputs unlike the
#: samples count too.
_DAMPING = 0.05
#: Parts of a group's range that are tried as its scale: clipping its ends can cost less.
_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)


#: Weights that share a scale, and the width from which decoders have larger groups than 32.
_SMALL, _LARGE, _WIDE = 32, (256, 128), 1024
#: Triangular matrices of at most this size are inverted by substitution.
_SMALL_TRIANGLE = 256


def group_for(width: int) -> int:
    """How many weights share a scale in a decoder of this width.

    In a wide decoder a step takes as long as its products, which are quicker in large groups. In
    narrow ones the rest of a step takes as long, and they lose more by rounding.
    """
    whole = (group for group in _LARGE if width % group == 0)
    return next(whole, _LARGE[-1]) if width >= _WIDE else _SMALL


class Groups(NamedTuple):
    """(values[o, i] - zeros[o, i // group]) * scales[o, i // group] approximates weight[o, i]."""

    values: NDArray[np.uint8]  # (out, groups * group), 0 to 15
    scales: Floats  # (out, groups), positive
    zeros: NDArray[np.uint8]  # (out, groups), 0 to 15

    def weight(self) -> Floats:
        """The approximated weight, (out, groups * group)."""
        group = self.values.shape[1] // self.scales.shape[1]
        values = self.values.astype(np.float32) - np.repeat(self.zeros, group, axis=1)
        result: Floats = (values * np.repeat(self.scales, group, axis=1)).astype(np.float32)
        return result


def quantize_groups(weight: Floats, inputs: Floats | None = None, *, group: int) -> Groups:
    """Quantise a (out, in) matrix; the last group is filled with channels of zeros.

    group: consecutive input channels whose weights share a scale. inputs: (rows, in) inputs of the
    product, for the compensation; None: each weight is rounded by itself.
    """
    outer, inner = weight.shape
    width = -(-inner // group) * group
    rest = np.zeros((width, outer), np.float32)  # transposed: a channel's weights are contiguous
    rest[:inner] = weight.T
    inverse = None if inputs is None else _inverse_factor(inputs, width)
    values = np.zeros((width, outer), np.uint8)
    scales = np.zeros((width // group, outer), np.float32)
    zeros = np.zeros((width // group, outer), np.uint8)
    for index, start in enumerate(range(0, width, group)):
        end = start + group
        part = rest[start:end]
        scale, zero = scales[index], zeros[index] = _ranges(part)
        if inverse is None:
            values[start:end] = _round(part, scale, zero)
            continue
        errors = np.empty((group, outer), np.float32)
        for offset, factors in enumerate(inverse[start:end, start:end]):
            rounded = _round(part[offset], scale, zero)
            values[start + offset] = rounded
            wrong = part[offset] - (rounded - zero.astype(np.float32)) * scale
            errors[offset] = wrong / factors[offset]
            part[offset + 1 :] -= factors[offset + 1 :, None] * errors[offset]
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
    """The scale and zero point that round each column of (group, out) best, (out,) each."""
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
    """The upper Cholesky factor of the inverse of the inputs' damped second moments.

    (width, width). It is the inverse of the upper factor R of the moments R R^T, so the moments
    themselves need not be inverted.
    """
    padded = np.zeros((len(inputs), width), np.float32)
    padded[:, : inputs.shape[1]] = inputs
    moments = (padded.T @ padded).astype(np.float64)
    mean = float(np.trace(moments)) / width
    moments[np.diag_indices(width)] += _DAMPING * mean if mean > 0 else 1.0
    # The lower factor of the moments in reverse order is R in reverse order.
    factor = np.linalg.cholesky(moments[::-1, ::-1]).astype(np.float64, copy=False)
    del moments  # half a gigabyte
    _invert_lower(factor)
    inverse: Floats = np.ascontiguousarray(factor[::-1, ::-1], np.float32)
    return inverse


def _invert_lower(factor: NDArray[np.float64]) -> None:
    """Invert a lower triangular matrix in its place, by halves.

    The inverse of [[a, 0], [c, b]] is [[a', 0], [-b' c a', b']]: products, but for small triangles.
    """
    size = len(factor)
    if size <= _SMALL_TRIANGLE:
        factor[...] = np.tril(np.linalg.solve(factor, np.eye(size)))
        return
    half = size // 2
    upper, lower = factor[:half, :half], factor[half:, half:]
    _invert_lower(upper)
    _invert_lower(lower)
    factor[half:, :half] = -(lower @ factor[half:, :half] @ upper)
