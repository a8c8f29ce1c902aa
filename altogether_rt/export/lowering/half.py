"""Linear layers and tables in float16: weights, activations and products."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from altogether_rt.export.graph import GraphBuilder
from altogether_rt.export.lowering.base import TableRef

__all__ = ["HalfLinear", "HalfTable"]

Matrix = NDArray[np.float32]


class HalfLinear:
    """One MatMul of float16 values; the weight is stored as (in, out)."""

    def linear(
        self, g: GraphBuilder, x: str, weight: Matrix, bias: Matrix | None, name: str
    ) -> str:
        y = g.op("MatMul", x, g.weight(f"{name}.weight", weight.T.astype(np.float16)))
        if bias is None:
            return y
        return g.op("Add", y, g.weight(f"{name}.bias", bias.astype(np.float16)))


class HalfTable:
    """One float16 array for both lookup and head."""

    def table(self, g: GraphBuilder, name: str, rows: Matrix, as_head: bool) -> TableRef:
        return TableRef(g.weight(f"{name}.weight", rows.astype(np.float16)))

    def lookup(self, g: GraphBuilder, table: TableRef, index: str) -> str:
        return g.op("Gather", table.values, index, axis=0)

    def logits(self, g: GraphBuilder, table: TableRef, x: str) -> str:
        return g.op("Gemm", x, table.values, transB=1)
