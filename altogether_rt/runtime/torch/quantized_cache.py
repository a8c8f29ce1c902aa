"""Keys and values in one byte each, with a scale for every token and head.

A vector of a head is rounded when it is stored, whatever came before or comes after, so a cached
token never changes, and no calibration is needed. The scale is float32: 4 bytes for each head_dim.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from altogether_rt.runtime.torch.float8 import quantize_rows

__all__ = ["CacheType", "QuantizedVectors", "quantize_vectors", "round_vectors"]

#: What a cached number is stored as.
CacheType = Literal["float8", "int8"]
_INT8_MAX = 127.0
_SMALLEST = 1e-12  # of a vector of zeros, which stays zero


class QuantizedVectors(NamedTuple):
    """values * scales approximates keys or values."""

    values: Tensor  # (..., head_dim) float8_e4m3fn or int8
    scales: Tensor  # (..., 1) float32, positive


def quantize_vectors(x: Tensor, kind: CacheType) -> QuantizedVectors:
    """Store x (..., head_dim) with a scale for each vector."""
    if kind == "float8":
        return QuantizedVectors(*quantize_rows(x))
    wide = x.float()
    scales = wide.abs().amax(dim=-1, keepdim=True).clamp(min=_SMALLEST) / _INT8_MAX
    values = (wide / scales).round().clamp(-_INT8_MAX, _INT8_MAX).to(torch.int8)
    return QuantizedVectors(values, scales)


def round_vectors(x: Tensor, kind: CacheType) -> Tensor:
    """What is read back of x (..., head_dim) after it was stored, in the type of x."""
    stored = quantize_vectors(x, kind)
    return (stored.values.float() * stored.scales).to(x.dtype)
