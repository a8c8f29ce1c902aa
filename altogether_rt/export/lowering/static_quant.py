"""Linear layers in int8 or fp8 with scales fixed at export, as Q/DQ pairs around a MatMul.

TensorRT turns these into one integer or fp8 product. Its kernels take a single scale for an
activation tensor and a scale per output channel for a weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from altogether_rt.export.graph import GraphBuilder
from altogether_rt.export.lowering.half import HalfLinear

__all__ = ["FP8", "INT8", "StaticLinear"]

Matrix = NDArray[np.float32]
#: How far activations may exceed the largest ones seen on the samples without clipping.
ACTIVATION_MARGIN = 1.1
#: Smallest scale, for values that were always zero; representable in float16.
SMALLEST_SCALE = 1e-7


@dataclass(frozen=True)
class StoredType:
    """A narrow type and its largest finite number."""

    name: str
    dtype: Any
    largest: float
    rounds: bool  # whether values are rounded to integers

    def quantize(self, values: NDArray[Any]) -> NDArray[Any]:
        """The nearest values of this type."""
        clipped = values.clip(-self.largest, self.largest)
        return (np.rint(clipped) if self.rounds else clipped).astype(self.dtype)


INT8 = StoredType("int8", np.int8, 127, rounds=True)
FP8 = StoredType("fp8", ml_dtypes.float8_e4m3fn, 448, rounds=False)


class StaticLinear:
    """Layers with a known input range in the stored type; all others in float16."""

    def __init__(self, stored: StoredType, ranges: Mapping[str, float] | None = None) -> None:
        """ranges: the largest absolute input of each layer, by its first weight's name."""
        self._stored = stored
        self._ranges = ranges or {}

    def linear(
        self, g: GraphBuilder, x: str, weight: Matrix, bias: Matrix | None, name: str
    ) -> str:
        largest = self._ranges.get(name.partition("+")[0])
        if largest is None:
            return HalfLinear().linear(g, x, weight, bias, name)
        stored = self._stored
        zero = g.constant(0, stored.dtype)
        step = g.constant(_scale(largest * ACTIVATION_MARGIN / stored.largest), np.float16)
        x = g.op("DequantizeLinear", g.op("QuantizeLinear", x, step, zero), step, zero)
        scales = _scale(np.abs(weight).max(axis=1) / stored.largest)  # (out,)
        values = stored.quantize(weight / scales[:, None].astype(np.float32))
        dequantized = g.op(
            "DequantizeLinear",
            g.weight(f"{name}.weight_{stored.name}", values.T),
            g.weight(f"{name}.weight_scale", scales),
            axis=1,
        )
        y = g.op("MatMul", x, dequantized)
        if bias is None:
            return y
        return g.op("Add", y, g.weight(f"{name}.bias", bias.astype(np.float16)))


def _scale(scale: Any) -> NDArray[np.float16]:
    """The scale as stored in float16: values must be divided by what they are multiplied with."""
    stored: NDArray[np.float16] = np.maximum(scale, SMALLEST_SCALE).astype(np.float16)
    return stored
