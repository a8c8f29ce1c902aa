"""Chooses the lowerings that a recipe names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from altogether_rt.artifacts.manifest import GROUPS
from altogether_rt.export.graph import OPSET
from altogether_rt.export.lowering.activations import Activations
from altogether_rt.export.lowering.attention import (
    AttentionLowering,
    CacheScales,
    GroupQueryAttention,
)
from altogether_rt.export.lowering.base import (
    Fp32Linear,
    Fp32Table,
    Int8Linear,
    Int8Table,
    LinearLowering,
    Lowering,
    TableLowering,
)
from altogether_rt.export.lowering.decode_attention import DecodeAttention
from altogether_rt.export.lowering.group_linear import GroupLinear
from altogether_rt.export.lowering.half import HalfLinear, HalfTable
from altogether_rt.export.lowering.scatter_attention import SCATTER_OPSET, ScatterAttention
from altogether_rt.export.lowering.static_quant import FP8, INT8, StaticLinear
from altogether_rt.export.lowering.weight_only import WeightOnlyLinear
from altogether_rt.export.recipes import LoweringNames

__all__ = ["build_lowering"]


def build_lowering(
    names: LoweringNames,
    scales: CacheScales | None = None,
    ranges: Mapping[str, float] | None = None,
    kept: Collection[str] = (),
    inputs: Callable[[str], NDArray[np.float32] | None] = lambda name: None,
) -> Lowering:
    """The lowering that a recipe names.

    scales: of an int8 cache. ranges: the largest absolute input of each layer, for static scales.
    kept: products that are computed more precisely, by the name of their first weight.
    inputs: some inputs of a product, (rows, in), for the compensation of 4-bit weights.
    """
    linear: dict[str, LinearLowering] = {
        "fp32": Fp32Linear(),
        "int8-row": Int8Linear(kept),
        "int4-group": GroupLinear(kept, inputs, names.group or GROUPS[0]),
        "fp16": HalfLinear(),
        "int8-static": StaticLinear(INT8, ranges),
        "fp8-static": StaticLinear(FP8, ranges),
        "int8-weight": WeightOnlyLinear(8),
        "int4-weight": WeightOnlyLinear(4),
    }
    table: dict[str, TableLowering] = {
        "fp32": Fp32Table(),
        "int8-row": Int8Table(kept),
        "fp16": HalfTable(),
    }
    attention: dict[str, AttentionLowering] = {
        "group-query": GroupQueryAttention(),
        "group-query-int8": GroupQueryAttention(int8_cache=True, scales=scales),
        "scatter": ScatterAttention(),
    }
    return Lowering(
        linear[names.linear],
        table[names.table],
        attention[names.attention],
        Activations(
            np.float16 if names.activations == "fp16" else np.float32,
            half_norms=names.norms == "fp16",
        ),
        SCATTER_OPSET if names.attention == "scatter" else OPSET,
        DecodeAttention() if names.decode else None,
        DecodeAttention() if names.prompts else None,
        packed_attention=names.encoder_attention == "packed",
    )
