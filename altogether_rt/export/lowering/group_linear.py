"""Linear layers of the decoder with weights in 4 bits, for captions one at a time.

A step for one caption reads every weight once and does little else, so it takes as long as the
weights are large. Encoder and mapper run once per image and are bound by arithmetic, which is
fastest with int8 weights; so is a batch of prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from altogether_rt.export.graph import GraphBuilder
from altogether_rt.export.lowering.attention import MICROSOFT
from altogether_rt.export.lowering.base import Int8Linear
from altogether_rt.export.lowering.groups import pack_halves, quantize_groups

__all__ = ["GroupLinear"]

Floats = NDArray[np.float32]
#: MatMulNBits with activations in int8, a scale for each group of channels of a row: an outlier
#: takes precision from its own group alone.
_INT8_ACTIVATIONS = 4


class GroupLinear:
    """ONNX Runtime's MatMulNBits in the decoder's layers; int8 by row elsewhere and where kept."""

    def __init__(
        self,
        kept: Collection[str] = (),
        inputs: Callable[[str], Floats | None] = lambda name: None,
        group: int = 32,
    ) -> None:
        """kept: products in int8, with activations of 15 bits, by the name of their first weight.

        inputs: some inputs of a product (rows, in), which its errors are compensated on; None:
        each weight is rounded by itself. group: consecutive input channels that share a scale.
        """
        self._kept = frozenset(kept)
        self._int8 = Int8Linear(kept)
        self._inputs = inputs
        self._group = group

    def linear(
        self, g: GraphBuilder, x: str, weight: Floats, bias: Floats | None, name: str
    ) -> str:
        first = name.partition("+")[0]
        if not first.startswith("decoder.layers.") or first in self._kept:
            return self._int8.linear(g, x, weight, bias, name)
        group = self._group
        groups = quantize_groups(weight, self._inputs(first), group=group)
        outer, inner = weight.shape
        y = g.op(
            "MatMulNBits",
            x,
            g.weight(
                f"{name}.weight_int4", pack_halves(groups.values).reshape(outer, -1, group // 2)
            ),
            g.weight(f"{name}.weight_scale", groups.scales),
            g.weight(f"{name}.weight_zero", pack_halves(groups.zeros)),
            domain=MICROSOFT,
            K=inner,
            N=outer,
            bits=4,
            block_size=group,
            accuracy_level=_INT8_ACTIVATIONS,
        )
        return y if bias is None else g.op("Add", y, g.weight(f"{name}.bias", bias))
