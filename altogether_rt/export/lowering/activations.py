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
    """Values between operators are `dtype`; inputs and outputs of graphs and norms are float32.

    `narrow` and `widen` convert between the two; they add no node if the types are the same.
    """

    dtype: Any = np.float32

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

    def _cast(self, g: GraphBuilder, x: str, dtype: Any) -> str:
        return g.op("Cast", x, to=onnx_type(dtype)) if self.half else x


def onnx_type(dtype: Any) -> int:
    """ONNX's number for a NumPy type."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
