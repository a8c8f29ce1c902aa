"""Lowerings of linear layers and token tables: the operators that compute them on a target.

The model definition (`export.decoder`, `export.mapper`) asks for a linear layer or for rows of a
table; a lowering chooses the operators. Attention, which uses the cache, is in `attention`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from altogether_rt.export.graph import OPSET, GraphBuilder
from altogether_rt.export.lowering.activations import Activations
from altogether_rt.export.lowering.attention import MICROSOFT, AttentionLowering
from altogether_rt.export.lowering.decode_attention import DecodeAttention
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
]

Matrix = NDArray[np.float32]
#: Zero point of activations: int8 values are stored as uint8, the type that the CPU kernels take.
ACTIVATION_ZERO = 128
#: Used instead of the largest value of a row of zeros, so that the row stays zero and not 0/0.
SMALLEST = 1e-30
#: Rounding leaves at most half a step, so this many times that fills the int8 range again.
REMAINDER_FACTOR = 2 * INT8_MAX


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
    decode: DecodeAttention | None = None  # of a graph for steps of one token a row
    prompts: DecodeAttention | None = None  # of a graph for new prompts
    packed_attention: bool = False  # of the encoder, where it is torch's own


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

    def __init__(self, kept: Collection[str] = ()) -> None:
        """kept: products, by the name of their first weight, whose activations have 15 bits."""
        self._kept = frozenset(kept)

    def linear(
        self, g: GraphBuilder, x: str, weight: Matrix, bias: Matrix | None, name: str
    ) -> str:
        split = quantize_splitting(weight)
        values = g.weight(f"{name}.weight_int8", split.values.T)
        scales = g.weight(f"{name}.weight_scale", split.scales)
        repeated = (
            g.weight(f"{name}.weight_repeated", split.repeated) if len(split.repeated) else None
        )
        kept = name.partition("+")[0] in self._kept
        y = integer_product(g, x, values, scales, repeated, kept=kept)
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

    def __init__(self, kept: Collection[str] = ()) -> None:
        """kept: as for `Int8Linear`; the head's name is its table's."""
        self._kept = frozenset(kept)

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
        kept = table.values.removesuffix(".weight_int8") in self._kept
        return integer_product(g, x, table.values, table.scales, kept=kept)


_FLOAT = int(onnx.TensorProto.FLOAT)


def integer_product(
    g: GraphBuilder,
    x: str,
    values: str,
    scales: str,
    repeated: str | None = None,
    *,
    kept: bool = False,
) -> str:
    """x (..., in) float32 times int8 values (in, out), columns scaled -> (..., out) float32.

    repeated: (added,) channels of x to append to it; `values` has that many rows more. kept: also
    multiply what rounding x leaves over. The kernel scales the columns of its integer sums itself,
    so that the integers are never written to memory. It takes one activation scale for all rows, so
    the scale of each row is multiplied afterwards.
    """
    largest = _largest(g, x)
    step, zero = g.constant(1 / INT8_MAX, np.float32), g.constant(ACTIVATION_ZERO, np.uint8)
    relative = g.op("Div", x, largest)
    quantized = g.op("QuantizeLinear", relative, step, zero)
    if kept:
        quantized = g.op("Concat", quantized, _remainder(g, relative, quantized), axis=0)
    if repeated is not None:  # appended after quantisation: a quarter of the bytes
        again = g.op("Gather", quantized, repeated, axis=-1)
        quantized = g.op("Concat", quantized, again, axis=-1)
    operands = (quantized, values, step, scales, zero)
    y = g.op("MatMulIntegerToFloat", *operands, domain=MICROSOFT)
    if kept:
        y, rest = g.ops("Split", 2, y, axis=0, num_outputs=2)
        y = g.op("Add", y, g.op("Mul", rest, g.constant(1 / REMAINDER_FACTOR, np.float32)))
    return g.op("Mul", y, largest)


def _largest(g: GraphBuilder, x: str) -> str:
    """The largest |x| of each row, (..., 1). Rows cover the int8 range: it is INT8_MAX steps."""
    largest = g.op("ReduceMax", g.op("Abs", x), g.constant([-1], np.int64), keepdims=1)
    return g.op("Max", largest, g.constant(SMALLEST, np.float32))


def _remainder(g: GraphBuilder, relative: str, quantized: str) -> str:
    """What rounding took away, in the same int8 steps after multiplying by REMAINDER_FACTOR.

    Together the two terms have 15 bits. Both are rows of one product, which reads its weights once:
    for a few rows, that is what takes the time.
    """
    step, zero = g.constant(1 / INT8_MAX, np.float32), g.constant(ACTIVATION_ZERO, np.uint8)
    rest = g.op("Sub", relative, g.op("DequantizeLinear", quantized, step, zero))
    rest = g.op("Mul", rest, g.constant(REMAINDER_FACTOR, np.float32))
    return g.op("QuantizeLinear", rest, step, zero)
