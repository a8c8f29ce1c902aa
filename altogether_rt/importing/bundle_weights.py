"""Reads a bundle's weights as a checkpoint stores them: float32, one tensor per parameter.

The exporter stores linear layers transposed, fuses those with the same input, and in int8 bundles
adds a scale per output channel (`altogether_rt.export.lowering.base`), in int4 bundles a scale and
a zero point per group of input channels (`lowering.groups`). The rounding cannot be undone: a
weight is read as its value times its scale.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from altogether_rt.errors import BundleError
from altogether_rt.export.lowering.groups import unpack_halves

__all__ = ["GraphWeights", "recover_parameters"]

Floats = NDArray[np.float32]

INT8, SCALE, REPEATED = "_int8", "_scale", "_repeated"
INT4, ZERO = "_int4", "_zero"
POSITIONS, EMBEDDING = "decoder.positions.weight", "decoder.embed.weight"
#: Tables that the exporter computes from the configuration; they are not parameters.
DERIVED = ("decoder.rotary_cos", "decoder.rotary_sin")
_CONSTANT = re.compile(r"const_|.*_scale$")
_PRECISION = re.compile(r"Integer(ToFloat)?$")  # in an operator's name


class GraphWeights:
    """The weights of one graph as float32, dequantised where needed, by the exporter's names."""

    def __init__(self, path: Path) -> None:
        """Raises BundleError if `path` is not a graph."""
        self.path = path
        try:
            graph = onnx.load(path, load_external_data=False).graph
        except (DecodeError, OSError) as error:
            raise BundleError(f"{path} is not an ONNX graph: export the bundle again.") from error
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._uses = [
            (node.op_type, name)
            for node in graph.node
            for name in node.input
            if name in self._stored
        ]

    def names(self) -> list[str]:
        """The names of all weights, without repetition."""
        return list(dict.fromkeys(name for _, name in self.uses()))

    def uses(self) -> Iterator[tuple[str, str]]:
        """Operator and weight of every use, in the order of the nodes, without their precision."""
        for operator, name in self._uses:
            dtype = self._stored[name].data_type
            if dtype == onnx.TensorProto.INT8 and name.endswith(INT8):
                yield _PRECISION.sub("", operator), name.removesuffix(INT8)
            elif dtype == onnx.TensorProto.UINT8 and name.endswith(INT4):
                yield operator, name.removesuffix(INT4)
            elif dtype == onnx.TensorProto.FLOAT and not _CONSTANT.match(name):
                yield operator, name

    def read(self, name: str, *, scaled_axis: int = -1) -> Floats:
        """A weight in the graph's layout, which is (in, out) for linear layers.

        scaled_axis: the axis of a quantised weight that its scales belong to. Raises BundleError
        for a weight that cannot be read.
        """
        if name in self._stored:
            return self._array(name).astype(np.float32, copy=False)
        if name + INT4 in self._stored:
            return self._read_groups(name)
        values, scales = self._array(name + INT8), self._array(name + SCALE)
        if values.ndim != 2 or scales.shape != (values.shape[scaled_axis],):
            raise BundleError(f"{self.path} has scales that do not match the values of {name}.")
        whole = values.astype(np.float32) * np.expand_dims(scales, axis=-1 - scaled_axis)
        return self._join(name, whole) if name + REPEATED in self._stored else whole

    def _read_groups(self, name: str) -> Floats:
        """A 4-bit weight, (in, out); the last group may have channels that the layer has not."""
        packed, scales = self._array(name + INT4), self._array(name + SCALE)
        zeros = self._array(name + ZERO)
        fits = packed.ndim == 3 and scales.shape == packed.shape[:2] and zeros.ndim == 2
        if not fits or zeros.shape != (len(packed), -(-packed.shape[1] // 2)):
            raise BundleError(f"{self.path} has scales that do not match the values of {name}.")
        values = unpack_halves(packed.astype(np.uint8)).astype(np.float32)
        points = unpack_halves(zeros.astype(np.uint8))[:, : packed.shape[1], None]
        whole: Floats = (values - points) * scales.astype(np.float32)[..., None]
        return whole.reshape(len(packed), -1).T

    def _join(self, name: str, split: Floats) -> Floats:
        """Add up the parts of split channels: (in + added, out) -> (in, out)."""
        stored = self._array(name + REPEATED)
        repeated = stored.astype(np.int64)
        joined = split[: max(len(split) - repeated.size, 0)].copy()
        within = bool(((repeated >= 0) & (repeated < len(joined))).all())
        if stored.dtype != np.int64 or repeated.ndim != 1 or not within:
            raise BundleError(f"{self.path} repeats channels that {name} does not have.")
        np.add.at(joined, repeated, split[len(joined) :])
        return joined

    def is_quantised(self, name: str) -> bool:
        return name not in self._stored

    def _array(self, name: str) -> NDArray[np.generic]:
        try:
            tensor = self._stored[name]
            array: NDArray[np.generic] = onnx.numpy_helper.to_array(tensor, str(self.path.parent))
        except (KeyError, ValueError, OSError, onnx.checker.ValidationError) as error:
            raise BundleError(
                f"{self.path} has no readable weights {name}: export the bundle again."
            ) from error
        return array


def recover_parameters(
    graph: GraphWeights, shapes: Mapping[str, tuple[int, ...]], *, tied_head: bool
) -> dict[str, Floats]:
    """The parameters of a mapper or decoder from its graph; `shapes` gives their shapes by name.

    A bundle does not contain positions before the decoder's offset, which are never read: they are
    zeros in the result. Raises BundleError if the graph's weights are not those of `shapes`.
    """
    found: dict[str, Floats] = {}
    for name in graph.names():
        if name in DERIVED:
            continue
        parts = _parts(name)
        unknown = [part for part in parts if part not in shapes]
        if unknown:
            raise BundleError(
                f"{graph.path} has {unknown[0]}, which its configuration does not have."
            )
        array = _as_in_torch(graph, name, shapes[parts[0]], tied_head=tied_head)
        ends = np.cumsum([shapes[part][0] for part in parts])[:-1]
        found |= zip(parts, np.split(array, ends), strict=True)
    for name, shape in shapes.items():
        if name not in found or found[name].shape != shape:
            raise BundleError(
                f"{graph.path} has no {name} of shape {shape}, which its configuration requires: "
                "only bundles that altogether-rt exported for the CPU can be converted to "
                "checkpoints."
            )
    return {name: found[name] for name in shapes}


def _parts(name: str) -> list[str]:
    """The parameters fused in a weight, two of them for `decoder.layers.0.q+layers.0.k.bias`."""
    owner, _, rest = name.partition(".")
    layers, dot, kind = rest.rpartition(".")
    return [f"{owner}.{layer}{dot}{kind}" for layer in layers.split("+")]


def _as_in_torch(
    graph: GraphWeights, name: str, shape: tuple[int, ...], *, tied_head: bool
) -> Floats:
    if name == POSITIONS:
        rows = graph.read(name, scaled_axis=0)
        absent = np.zeros((max(shape[0] - len(rows), 0), *rows.shape[1:]), np.float32)
        return np.concatenate([absent, rows])
    if name == EMBEDDING:
        if tied_head and graph.is_quantised(name):  # stored transposed, for the head
            return graph.read(name).T
        return graph.read(name, scaled_axis=0)
    array = graph.read(name)
    return array.T[:, : shape[1]] if len(shape) == 2 and name.endswith(".weight") else array
