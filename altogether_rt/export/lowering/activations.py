"""The type of the values that operators of a graph pass to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from altogether_rt.export.graph import GraphBuilder

__all__ = ["Activations", "onnx_type"]


@dataclass(frozen=True)
class Activations:
    """Values between operators are `dtype`; inputs and outputs of graphs are float32.

    So are norms, unless `half_norms`: LayerNormalization then takes and gives `dtype`, and computes
    its statistics in float32 (its `stash_type`). RMSNormalization, which has no float16 kernel in
    some runtimes, stays in float32.

    `narrow` and `widen` convert between the two; they add no node if the types are the same.
    """

    dtype: Any = np.float32
    half_norms: bool = False

    @property
    def half(self) -> bool:
        return bool(self.dtype != np.float32)

    def narrow(self, g: GraphBuilder, x: str) -> str:
        """Cast float32 to the activations' type."""
        return self._cast(g, x, self.dtype)

    def widen(self, g: GraphBuilder, x: str) -> str:
        """Cast the activations' type to float32."""
        return self._cast(g, x, np.float32)

    def array(self, array: NDArray[Any]) -> NDArray[Any]:
        """A weight in the activations' type."""
        return array.astype(self.dtype, copy=False)

    def layer_norm(
        self,
        g: GraphBuilder,
        x: str,
        name: str,
        weights: tuple[NDArray[np.float32], NDArray[np.float32]],
        epsilon: float,
    ) -> str:
        """x (..., W) in the activations' type, normalised by the weight and bias `name`."""
        half = self.half and self.half_norms
        scale, bias = (
            g.weight(f"{name}.{part}", self.array(array) if half else array)
            for part, array in zip(("weight", "bias"), weights, strict=True)
        )
        x = x if half else self.widen(g, x)
        y = g.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)
        return y if half else self.narrow(g, y)

    def _cast(self, g: GraphBuilder, x: str, dtype: Any) -> str:
        return g.op("Cast", x, to=onnx_type(dtype)) if self.half else x


def onnx_type(dtype: Any) -> int:
    """ONNX's number for a NumPy type."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
