"""Writes the encoder's graph: any torch image encoder, its linear layers lowered for the target."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from altogether_rt.config import EncoderConfig
from altogether_rt.export.graph import OPSET, GraphBuilder
from altogether_rt.export.lowering.activations import onnx_type
from altogether_rt.export.lowering.base import Lowering
from altogether_rt.export.packed_attention import packed_attention
from altogether_rt.export.typed_values import NORMS, TypedValues, wants_narrow

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["build_encoder", "trace_encoder"]

#: torch.export treats sizes 0 and 1 as constants, so the example batch has two images.
EXAMPLE_BATCH = 2


def build_encoder(
    g: GraphBuilder, config: EncoderConfig, module: torch.nn.Module, lowering: Lowering
) -> None:
    """Add the encoder to `g`: uint8 pixels (N, H, W, 3) to embeddings (N, E) or (N, patches, E).

    `module` computes embeddings from pixels, both normalisations included. Products with a constant
    matrix become the target's linear layers; all other nodes are kept as torch exported them.
    """
    size = config.image_size
    g.input("pixels", np.uint8, ["N", size, size, 3])
    with packed_attention(module.eval()) if lowering.packed_attention else contextlib.nullcontext():
        traced = trace_encoder(module, size)
    result = _Transcriber(g, lowering).transcribe(traced)
    g.output(result, "embeddings", np.float32, ["N", *config.embedding_shape])


def trace_encoder(module: torch.nn.Module, image_size: int) -> ir.Graph:
    """The graph that torch exports for `module`, for any number of images."""
    example = torch.zeros((EXAMPLE_BATCH, image_size, image_size, 3), dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["pixels"],
            output_names=["embeddings"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
    assert program is not None
    return program.model.graph


class _Transcriber:
    """Copies a graph into a builder node by node, and lowers its linear layers.

    With activations narrower than float32, the inputs of each operator are cast to the type that it
    is computed in (`export.typed_values`); torch's graph is float32 throughout.
    """

    def __init__(self, g: GraphBuilder, lowering: Lowering) -> None:
        self._g = g
        self._lowering = lowering
        self._half = lowering.activations.half
        self._values = TypedValues(g, lowering.activations)  # keys: names in torch's graph
        self._constants: dict[tuple[str, bool], str] = {}

    def transcribe(self, graph: ir.Graph) -> str:
        """Copy `graph`; return the builder's name of its single result, float32."""
        (source,), (result,) = graph.inputs, graph.outputs
        # TensorRT supports no operator on uint8 except Cast, and torch transposes first.
        pixels = self._g.op("Cast", "pixels", to=onnx_type(np.float32)) if self._half else "pixels"
        self._values.define(str(source.name), pixels, narrow=False)
        for node in graph:
            assert not node.domain, f"unexpected operator {node.domain}::{node.op_type}"
            weight = _linear_weight(node)
            if weight is None:
                self._copy(node)
            else:
                self._lower(node, weight)
        return self._values.get(str(result.name), narrow=False)

    def _lower(self, node: ir.Node, weight: NDArray[np.float32]) -> None:
        bias = _constant(node.inputs[2]) if len(node.inputs) > 2 else None
        name = f"encoder.{node.outputs[0].name}"
        x = self._value(node.inputs[0], self._half)
        lowered = self._lowering.linear.linear(self._g, x, weight, bias, name)
        self._values.define(str(node.outputs[0].name), lowered, self._half)

    def _copy(self, node: ir.Node) -> None:
        from onnx_ir import to_proto

        present = [value for value in node.inputs if value is not None]
        half_norm = self._lowering.activations.half_norms and node.op_type == "LayerNormalization"
        narrow = self._half and (
            half_norm
            or wants_narrow(
                node.op_type, [self._values.is_narrow(str(value.name)) for value in present]
            )
        )
        inputs = ["" if value is None else self._value(value, narrow) for value in node.inputs]
        attributes = {
            attribute.name: _attribute_value(to_proto(attribute))
            for attribute in node.attributes.values()
        }
        results = self._g.ops(node.op_type, len(node.outputs), *inputs, **attributes)
        for output, name in zip(node.outputs, results, strict=True):
            key, is_float = str(output.name), _is_float(output)
            self._values.define(key, name, narrow and is_float)
            if self._half and is_float and node.op_type in NORMS and not narrow:
                self._values.define(key, self._values.get(key, narrow=True), narrow=True)

    def _value(self, value: ir.Value | None, narrow: bool) -> str:
        """The builder's name of a value; a constant is added when it is first used."""
        assert value is not None
        key, narrow = str(value.name), narrow and _is_float(value)
        if value.const_value is None or key in self._values:
            return self._values.get(key, narrow)
        if (key, narrow) not in self._constants:
            array = value.const_value.numpy()
            name = f"encoder.{key}" + ".narrow" * narrow
            if narrow:
                array = self._lowering.activations.array(array)
            self._constants[key, narrow] = self._g.weight(name, array)
        return self._constants[key, narrow]


def _linear_weight(node: ir.Node) -> NDArray[np.float32] | None:
    """The weight (out, in) of a node that multiplies by a constant matrix; None for other nodes."""
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    matrix = _constant(node.inputs[1])
    if matrix is None or matrix.ndim != 2 or _constant(node.inputs[0]) is not None:
        return None
    if node.op_type == "MatMul":
        return matrix.T
    options = {name: attribute.value for name, attribute in node.attributes.items()}
    plain = (options.get("alpha", 1.0), options.get("beta", 1.0), options.get("transA", 0))
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    if plain != (1.0, 1.0, 0) or (has_bias and _constant(node.inputs[2]) is None):
        return None
    return matrix if options.get("transB", 0) else matrix.T


def _constant(value: ir.Value | None) -> NDArray[np.float32] | None:
    if value is None or value.const_value is None:
        return None
    array: NDArray[Any] = value.const_value.numpy()
    return array if array.dtype == np.float32 else None


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.name == "FLOAT"


def _attribute_value(proto: Any) -> Any:
    from onnx import helper

    return helper.get_attribute_value(proto)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of torch's exporter, which concern its own internals."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
