"""Float values of a copied graph, in float32, in the activations' type, or in both."""

from __future__ import annotations

from collections.abc import Iterable

from altogether_rt.export.graph import GraphBuilder
from altogether_rt.export.lowering.activations import Activations

__all__ = ["NORMS", "TypedValues", "wants_narrow"]

#: Computed in the activations' type: products, which every runtime accumulates in a wider type.
PRODUCTS = frozenset({"Attention", "Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"})
#: Computed in float32; their results are narrowed.
NORMS = frozenset(
    {
        "BatchNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "RMSNormalization",
        "Softmax",
    }
)
#: Sums over many values, powers and quotients: computed in float32, and so are their consumers.
STATISTICS = frozenset(
    {
        *("Cast", "Clip", "Div", "Exp", "GlobalAveragePool", "Log", "Pow", "Reciprocal", "Sqrt"),
        *("ReduceL1", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare"),
    }
)


def wants_narrow(kind: str, inputs_narrow: Iterable[bool]) -> bool:
    """Whether an operator takes its float inputs narrow; those not listed follow their inputs."""
    if kind in PRODUCTS:
        return True
    return kind not in NORMS | STATISTICS and any(inputs_narrow)


class TypedValues:
    """A builder's names for the values of another graph; each is cast at most once each way."""

    def __init__(self, g: GraphBuilder, activations: Activations) -> None:
        self._g = g
        self._activations = activations
        self._names: dict[tuple[str, bool], str] = {}
        self._narrow: set[str] = set()

    def define(self, key: str, name: str, narrow: bool) -> None:
        """Define the value `key` as `name`, which is in the activations' type if `narrow`."""
        self._names[key, narrow] = name
        if narrow:
            self._narrow.add(key)

    def __contains__(self, key: str) -> bool:
        return (key, False) in self._names or (key, True) in self._names

    def is_narrow(self, key: str) -> bool:
        """Whether the value was defined in the activations' type, rather than cast to it later."""
        return key in self._narrow

    def get(self, key: str, narrow: bool) -> str:
        """The builder's name of the value in the type asked for."""
        if (key, narrow) not in self._names:
            other = self._names[key, not narrow]
            cast = self._activations.narrow if narrow else self._activations.widen
            self._names[key, narrow] = cast(self._g, other)
        return self._names[key, narrow]
