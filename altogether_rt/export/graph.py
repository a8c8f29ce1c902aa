"""A small builder of ONNX graphs: adding a node returns the name of its result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from altogether_rt.artifacts.manifest import TensorSpec
from altogether_rt.export.weights import WeightsFile

__all__ = ["GraphBuilder", "Shape", "tensor_specs"]

OPSET = 23  # of the CPU targets and of the graphs that torch exports
Shape = Sequence[int | str]


class GraphBuilder:
    """Collects nodes, weights, inputs and outputs of one graph.

    Values are known by name. A weight is written to the shared weights file when it is added, so
    the builder never keeps more than one in memory.
    """

    def __init__(self, name: str, weights: WeightsFile, opset: int = OPSET) -> None:
        self.name = name
        self._opset = opset
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._domains: set[str] = set()
        self._count = 0

    def input(self, name: str, dtype: Any, shape: Shape) -> str:
        """Declare an input; dimensions given by a name are dynamic."""
        self._inputs.append(_value_info(name, dtype, shape))
        return name

    def output(self, value: str, name: str, dtype: Any, shape: Shape) -> None:
        """Declare `value` as the output called `name`."""
        if value != name:
            self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(_value_info(name, dtype, shape))

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one result; an omitted optional input is an empty string."""
        return self.ops(kind, 1, *inputs, domain=domain, **attributes)[0]

    def ops(
        self,
        kind: str,
        results: int | Sequence[str],
        *inputs: str,
        domain: str = "",
        **attributes: Any,
    ) -> list[str]:
        """Add a node with several results; `results` gives their names, or their number."""
        if isinstance(results, int):
            self._count += 1
            results = [f"{kind.lower()}_{self._count}.{index}" for index in range(results)]
        names = list(results)
        node = helper.make_node(kind, list(inputs), names, domain=domain, **attributes)
        self._nodes.append(node)
        self._domains.add(domain)
        return names

    def weight(self, name: str, array: NDArray[Any]) -> str:
        """Add a weight; its name must be new in this graph."""
        assert name not in self._initializers, name
        self._initializers[name] = self._weights.tensor(name, array)
        return name

    def constant(self, value: Any, dtype: Any) -> str:
        """A small constant; equal constants are shared."""
        array = np.asarray(value, dtype)
        name = f"const_{array.dtype.name}_{array.shape}_{array.tobytes().hex()}"
        if name not in self._initializers:
            self._initializers[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def save(self, path: Path) -> None:
        """Write the graph and check it against the definitions of the standard operators."""
        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, list(self._initializers.values())
        )
        opsets = [helper.make_opsetid("", self._opset)]
        opsets += [helper.make_opsetid(domain, 1) for domain in sorted(self._domains - {""})]
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=helper.find_min_ir_version_for(opsets, ignore_unknown=True),
            producer_name="altogether-rt",
        )
        onnx.save(model, path)
        onnx.checker.check_model(str(path))


def tensor_specs(values: Sequence[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """Inputs or outputs, as a manifest lists them."""
    return tuple(
        TensorSpec(
            value.name,
            helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            tuple(dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim),
        )
        for value in values
    )


def _value_info(name: str, dtype: Any, shape: Shape) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, list(shape))
