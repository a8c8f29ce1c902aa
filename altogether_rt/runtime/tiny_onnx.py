"""Small graphs, serialised as ONNX without the onnx package.

Measuring a kernel needs no more than one product, drawing a token a few nodes, and a lean
installation has no onnx package. ONNX is protobuf: a message is a sequence of fields, each a key
(number and kind) and a value; numbers are varints, and any other value is its length and its bytes.
Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["group_matmul_model", "likeliest_model", "matmul_model"]

_FLOAT, _UINT8, _INT8, _INT32, _INT64, _DOUBLE = 1, 2, 3, 6, 7, 11  # TensorProto.DataType
_IR_VERSION, _OPSET = 8, 17
_INT_ATTRIBUTE, _INTS_ATTRIBUTE = 2, 7  # AttributeProto.AttributeType
_MICROSOFT = "com.microsoft"


def matmul_model(weight: NDArray[np.float32] | NDArray[np.int8]) -> bytes:
    """Serialised model `y = x @ weight`: MatMul for float32, MatMulInteger (x uint8) for int8.

    weight: (K, N); input `x` (M, K) with M free, output `y` (M, N), int32 for int8 weights.
    """
    integer = weight.dtype == np.int8
    node = (
        _text(1, "x") + _text(1, "w") + _text(2, "y")
        + _text(4, "MatMulInteger" if integer else "MatMul")
    )  # fmt: skip
    x = _value("x", _UINT8 if integer else _FLOAT, weight.shape[0])
    y = _value("y", _INT32 if integer else _FLOAT, weight.shape[1])
    return _model([node], {"w": weight}, [x], [y])


def group_matmul_model(
    packed: NDArray[np.uint8], scales: NDArray[np.float32], zeros: NDArray[np.uint8]
) -> bytes:
    """Serialised MatMulNBits of 4 bits with activations in int8, as `cpu-int4` has it.

    packed: (N, groups, group / 2); scales: (N, groups); zeros: (N, groups / 2), for an even number
    of groups. Input `x` (M, groups * group) with M free, output `y` (M, N).
    """
    outer, groups, half = packed.shape
    inner = groups * half * 2
    attributes = {"K": inner, "N": outer, "bits": 4, "block_size": half * 2, "accuracy_level": 4}
    weights: dict[str, NDArray[Any]] = {"w": packed, "s": scales, "z": zeros}
    node = (
        b"".join(_text(1, name) for name in ("x", *weights)) + _text(2, "y")
        + _text(4, "MatMulNBits")
        + b"".join(
            _field(5, _text(1, name) + _number(3, value) + _number(20, _INT_ATTRIBUTE))
            for name, value in attributes.items()
        )
        + _text(7, _MICROSOFT)
    )  # fmt: skip
    x, y = _value("x", _FLOAT, inner), _value("y", _FLOAT, outer)
    return _model([node], weights, [x], [y])


def likeliest_model(vocab_size: int, count: int) -> bytes:
    """Serialised model that finds the `count` largest of each row of logits, and sums over all.

    Inputs `logits` (M, vocab) float32 and `temperatures` (M, 1) float64, outputs `values`
    (M, count) float32, `ids` (M, count) int64 and `totals` (M,) float64: the sum of
    exp((logit - largest) / temperature).
    """
    nodes = (
        _node("TopK", ["logits", "k"], ["values", "ids"], axis=-1),
        _node("Cast", ["logits"], ["wide"], to=_DOUBLE),
        _node("ReduceMax", ["logits"], ["highest"], axes=[-1]),
        _node("Cast", ["highest"], ["largest"], to=_DOUBLE),
        _node("Sub", ["wide", "largest"], ["below"]),
        _node("Div", ["below", "temperatures"], ["scaled"]),
        _node("Exp", ["scaled"], ["weights"]),
        _node("ReduceSum", ["weights", "axes"], ["totals"], keepdims=0),
    )
    weights = {"k": np.array([count], np.int64), "axes": np.array([-1], np.int64)}
    inputs = _value("logits", _FLOAT, vocab_size), _value("temperatures", _DOUBLE, 1)
    outputs = (
        _value("values", _FLOAT, count),
        _value("ids", _INT64, count),
        _value("totals", _DOUBLE),
    )
    return _model(nodes, weights, inputs, outputs)


def _node(kind: str, inputs: list[str], outputs: list[str], **attributes: int | list[int]) -> bytes:
    """NodeProto; attributes are whole numbers, or lists of them."""
    packed = b"".join(
        _field(
            5,
            _text(1, name)
            + (
                _number(3, value) + _number(20, _INT_ATTRIBUTE)
                if isinstance(value, int)
                else b"".join(_number(8, each) for each in value) + _number(20, _INTS_ATTRIBUTE)
            ),
        )
        for name, value in attributes.items()
    )
    names = b"".join(_text(1, name) for name in inputs) + b"".join(_text(2, n) for n in outputs)
    return names + _text(4, kind) + packed


def _model(
    nodes: Sequence[bytes],
    weights: Mapping[str, NDArray[Any]],
    inputs: Sequence[bytes],
    outputs: Sequence[bytes],
) -> bytes:
    """ModelProto of these nodes, from NodeProto and ValueInfoProto."""
    graph = (
        b"".join(_field(1, node) for node in nodes)
        + _text(2, "small")
        + b"".join(_field(5, _tensor(name, array)) for name, array in weights.items())
        + b"".join(_field(11, each) for each in inputs)
        + b"".join(_field(12, each) for each in outputs)
    )
    versions = _field(8, _number(2, _OPSET)) + _field(8, _text(1, _MICROSOFT) + _number(2, 1))
    return _number(1, _IR_VERSION) + _field(7, graph) + versions


def _tensor(name: str, array: NDArray[Any]) -> bytes:
    """TensorProto of a float32, int8, uint8 or int64 array."""
    kinds = {"float32": _FLOAT, "int8": _INT8, "uint8": _UINT8, "int64": _INT64}
    kind = kinds[array.dtype.name]
    return (
        b"".join(_number(1, size) for size in array.shape)
        + _number(2, kind)
        + _text(8, name)
        + _field(9, np.ascontiguousarray(array).tobytes())
    )


def _value(name: str, element: int, columns: int | None = None) -> bytes:
    """ValueInfoProto of a (M, columns) tensor; None: of (M,)."""
    shape = _field(1, _text(2, "M"))
    if columns is not None:
        shape += _field(1, _number(1, columns))
    tensor_type = _number(1, element) + _field(2, shape)
    return _text(1, name) + _field(2, _field(1, tensor_type))


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative ones in two's complement
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _field(field, value.encode())
