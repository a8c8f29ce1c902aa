"""Lowerings of linear layers and token tables: the operators that compute them on a target.

The model definition (`export.decoder`, `export.mapper`) asks for a linear layer or for rows of a
table; a lowering chooses the operators. Attention, which uses the cache, is in `attention`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from altogether_rt.export.graph import OPSET, GraphBuilder
from altogether_rt.export.lowering.activations import Activations
from altogether_rt.export.lowering.attention import MICROSOFT, AttentionLowering
from altogether_rt.export.lowering.quantize import INT8_MAX, quantize_rows, quantize_splitting

__all__ = [
    "Fp32Linear",
    "Fp32Table",
    "Int8Linear",
    "Int8Table",
    "LinearLowering",
    "Lowering",
    "TableLowering",
    "TableRef",
    "quantize_activation",
]

Matrix = NDArray[np.float32]
#: Zero point of activations: int8 values are stored as uint8, the type that the CPU kernels take.
ACTIVATION_ZERO = 128
#: Used instead of the largest value of a row of zeros, so that the row stays zero and not 0/0.
SMALLEST = 1e-30


class LinearLowering(Protocol):
    """y = x @ weight.T + bias, in some precision."""

    def linear(
        self, g: GraphBuilder, x: str, weight: Matrix, bias: Matrix | None, name: str
    ) -> str:
        """x (..., in), weight (out, in), bias (out,) -> (..., out)."""


@dataclass(frozen=True)
class TableRef:
    """A table of rows in a graph."""

    values: str
    scales: str = ""  # int8 only, one for each row
    transposed: bool = False  # stored (width, rows), as the head's product needs it


class TableLowering(Protocol):
    """Token embeddings and positions; with `as_head`, the table also computes the logits."""

    def table(self, g: GraphBuilder, name: str, rows: Matrix, as_head: bool) -> TableRef:
        """Store a (rows, width) table."""

    def lookup(self, g: GraphBuilder, table: TableRef, index: str) -> str:
        """Rows at index (T,) -> float32 (T, width)."""

    def logits(self, g: GraphBuilder, table: TableRef, x: str) -> str:
        """Products of x (L, width) with every row -> float32 (L, rows)."""


@dataclass(frozen=True)
class Lowering:
    """A target's choice of operators for its graphs."""

    linear: LinearLowering
    table: TableLowering
    attention: AttentionLowering
    activations: Activations = field(default_factory=Activations)
    opset: int = OPSET


class Fp32Linear:
    """One MatMul; the weight is stored as (in, out)."""

    def linear(
        self, g: GraphBuilder, x: str, weight: Matrix, bias: Matrix | None, name: str
    ) -> str:
        y = g.op("MatMul", x, g.weight(f"{name}.weight", weight.T))
        return y if bias is None else g.op("Add", y, g.weight(f"{name}.bias", bias))


class Int8Linear:
    """Weights int8 with a scale per output channel, activations int8 with a scale per row.

    Because each row has its own scale, its result does not depend on the other rows of the batch;
    because the sums are of integers, it does not depend on their order. In `QuantizedRows` the rows
    of the weight are output channels, so its scales multiply columns of the product. Input channels
    with weights far larger than the others' are repeated, each time with a part of the weights.
    """

    def linear(
        self, g: GraphBuilder, x: str, weight: Matrix, bias: Matrix | None, name: str
    ) -> str:
        split = quantize_splitting(weight)
        values = g.weight(f"{name}.weight_int8", split.values.T)
        scales = g.weight(f"{name}.weight_scale", split.scales)
        repeated = (
            g.weight(f"{name}.weight_repeated", split.repeated) if len(split.repeated) else None
        )
        y = integer_product(g, x, values, scales, repeated)
        return y if bias is None else g.op("Add", y, g.weight(f"{name}.bias", bias))


class Fp32Table:
    """One float32 array for both lookup and head."""

    def table(self, g: GraphBuilder, name: str, rows: Matrix, as_head: bool) -> TableRef:
        return TableRef(g.weight(f"{name}.weight", rows))

    def lookup(self, g: GraphBuilder, table: TableRef, index: str) -> str:
        return g.op("Gather", table.values, index, axis=0)

    def logits(self, g: GraphBuilder, table: TableRef, x: str) -> str:
        return g.op("Gemm", x, table.values, transB=1)


class Int8Table:
    """int8 rows with a scale for each.

    A table that is also the head is stored once, transposed as the product needs it. A lookup then
    gathers columns, which is slower than gathering rows but fast compared with a layer.
    """

    def table(self, g: GraphBuilder, name: str, rows: Matrix, as_head: bool) -> TableRef:
        quantized = quantize_rows(rows)
        stored = quantized.values.T if as_head else quantized.values
        return TableRef(
            g.weight(f"{name}.weight_int8", stored),
            g.weight(f"{name}.weight_scale", quantized.scales),
            transposed=as_head,
        )

    def lookup(self, g: GraphBuilder, table: TableRef, index: str) -> str:
        if table.transposed:
            columns = g.op("Gather", table.values, index, axis=1)  # (width, T)
            values = g.op("Transpose", columns, perm=[1, 0])
        else:
            values = g.op("Gather", table.values, index, axis=0)
        scales = g.op("Gather", table.scales, index, axis=0)  # (T,)
        scales = g.op("Unsqueeze", scales, g.constant([1], np.int64))
        return g.op("Mul", g.op("Cast", values, to=_FLOAT), scales)

    def logits(self, g: GraphBuilder, table: TableRef, x: str) -> str:
        assert table.transposed, "this table was not stored as a head"
        return integer_product(g, x, table.values, table.scales)


_FLOAT = int(onnx.TensorProto.FLOAT)


def integer_product(
    g: GraphBuilder, x: str, values: str, scales: str, repeated: str | None = None
) -> str:
    """x (..., in) float32 times int8 values (in, out), columns scaled -> (..., out) float32.

    repeated: (added,) channels of x to append to it; `values` has that many rows more. The kernel
    scales the columns of its integer sums itself, so that the integers are never written to memory.
    It takes one activation scale for all rows, so the scale of each row is multiplied afterwards.
    """
    quantized, largest = quantize_activation(g, x)
    if repeated is not None:  # appended after quantisation: a quarter of the bytes
        again = g.op("Gather", quantized, repeated, axis=-1)
        quantized = g.op("Concat", quantized, again, axis=-1)
    step, zero = g.constant(1 / INT8_MAX, np.float32), g.constant(ACTIVATION_ZERO, np.uint8)
    operands = (quantized, values, step, scales, zero)
    return g.op("Mul", g.op("MatMulIntegerToFloat", *operands, domain=MICROSOFT), largest)


def quantize_activation(g: GraphBuilder, x: str) -> tuple[str, str]:
    """x (..., in) -> uint8 of the same shape, and the largest |x| of each row (..., 1).

    A row covers the int8 range: its scale is its largest absolute value divided by INT8_MAX. The
    caller has to multiply the product by that scale.
    """
    axes = g.constant([-1], np.int64)
    largest = g.op("ReduceMax", g.op("Abs", x), axes, keepdims=1)
    largest = g.op("Max", largest, g.constant(SMALLEST, np.float32))
    step, zero = g.constant(1 / INT8_MAX, np.float32), g.constant(ACTIVATION_ZERO, np.uint8)
    return g.op("QuantizeLinear", g.op("Div", x, largest), step, zero), largest
