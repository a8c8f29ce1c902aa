"""How the pieces of the model are spelt for a target: linear layers, token tables.

The model definition (`export.decoder`, `export.mapper`) asks for a linear layer or a table row; a
lowering says in which operators. Attention, which knows the cache, is in `export.attention`.
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
#: Zero point of activations: int8 values are stored as uint8, which the CPU kernels are made for.
ACTIVATION_ZERO = 128
#: Stands in for the largest value of a row of zeros, which then stays zero instead of becoming 0/0.
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
    scales: str = ""  # int8 only, one a row
    transposed: bool = False  # stored (width, rows), as a head multiplies by it


class TableLowering(Protocol):
    """Token embeddings and positions; with `as_head`, the same numbers also make the logits."""

    def table(self, g: GraphBuilder, name: str, rows: Matrix, as_head: bool) -> TableRef:
        """Store a (rows, width) table."""

    def lookup(self, g: GraphBuilder, table: TableRef, index: str) -> str:
        """Rows at index (T,) -> float32 (T, width)."""

    def logits(self, g: GraphBuilder, table: TableRef, x: str) -> str:
        """x (L, width) against every row -> float32 (L, rows)."""


@dataclass(frozen=True)
class Lowering:
    """All that a target decides about the operators of its graphs."""

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
    """Weights int8 with one scale an output channel, activations int8 with one scale a row.

    A scale of its own makes a row's result independent of what else is in the batch; integer sums
    make it independent of their order. In `QuantizedRows` the rows of the weight are output
    channels, so its scales multiply columns of the product. Input channels whose weights are far
    larger than the others' come several times, each with a part of the weights.
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
    """One float32 array for lookup and head alike."""

    def table(self, g: GraphBuilder, name: str, rows: Matrix, as_head: bool) -> TableRef:
        return TableRef(g.weight(f"{name}.weight", rows))

    def lookup(self, g: GraphBuilder, table: TableRef, index: str) -> str:
        return g.op("Gather", table.values, index, axis=0)

    def logits(self, g: GraphBuilder, table: TableRef, x: str) -> str:
        return g.op("Gemm", x, table.values, transB=1)


class Int8Table:
    """int8 rows with a scale each.

    A table that is also the head is stored once, transposed as the product needs it; a lookup then
    picks columns, which is slower than rows but small beside a layer.
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

    repeated: channels of x that come again behind the others, (added,); `values` has as many rows
    more.
    The columns are scaled where the integer sums leave the kernel, so that these never pass through
    memory; the operator takes one activation scale for all rows, so each row's own comes after it.
    """
    quantized, largest = quantize_activation(g, x)
    if repeated is not None:  # as integers, a quarter of the bytes
        again = g.op("Gather", quantized, repeated, axis=-1)
        quantized = g.op("Concat", quantized, again, axis=-1)
    step, zero = g.constant(1 / INT8_MAX, np.float32), g.constant(ACTIVATION_ZERO, np.uint8)
    operands = (quantized, values, step, scales, zero)
    return g.op("Mul", g.op("MatMulIntegerToFloat", *operands, domain=MICROSOFT), largest)


def quantize_activation(g: GraphBuilder, x: str) -> tuple[str, str]:
    """x (..., in) -> uint8 of the same shape, and the largest |x| of each row (..., 1).

    A row is spread over the int8 range: its scale is its largest value divided by INT8_MAX, which
    is left to whoever scales the product.
    """
    axes = g.constant([-1], np.int64)
    largest = g.op("ReduceMax", g.op("Abs", x), axes, keepdims=1)
    largest = g.op("Max", largest, g.constant(SMALLEST, np.float32))
    step, zero = g.constant(1 / INT8_MAX, np.float32), g.constant(ACTIVATION_ZERO, np.uint8)
    return g.op("QuantizeLinear", g.op("Div", x, largest), step, zero), largest
