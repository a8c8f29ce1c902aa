"""A graph of one matrix product, serialised as ONNX without the onnx package.

Measuring a kernel needs nothing more, and a lean installation has no onnx package. ONNX is
protobuf: a message is a sequence of fields, each a key (number and kind) and a value; numbers are
varints, and any other value is its length and its bytes. Field numbers are those of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["matmul_model"]

_FLOAT, _UINT8, _INT8, _INT32 = 1, 2, 3, 6  # TensorProto.DataType
_IR_VERSION, _OPSET = 8, 17


def matmul_model(weight: NDArray[np.float32] | NDArray[np.int8]) -> bytes:
    """Serialised model `y = x @ weight`: MatMul for float32, MatMulInteger (x uint8) for int8.

    weight: (K, N); input `x` (M, K) with M free, output `y` (M, N), int32 for int8 weights.
    """
    integer = weight.dtype == np.int8
    inner, outer = weight.shape
    node = (
        _text(1, "x") + _text(1, "w") + _text(2, "y")
        + _text(4, "MatMulInteger" if integer else "MatMul")
    )  # fmt: skip
    tensor = (
        b"".join(_number(1, size) for size in weight.shape)
        + _number(2, _INT8 if integer else _FLOAT)
        + _text(8, "w")
        + _field(9, np.ascontiguousarray(weight).tobytes())
    )
    graph = (
        _field(1, node)
        + _text(2, "matmul")
        + _field(5, tensor)
        + _field(11, _value("x", _UINT8 if integer else _FLOAT, inner))
        + _field(12, _value("y", _INT32 if integer else _FLOAT, outer))
    )
    return _number(1, _IR_VERSION) + _field(7, graph) + _field(8, _number(2, _OPSET))


def _value(name: str, element: int, columns: int) -> bytes:
    """ValueInfoProto of a (M, columns) tensor."""
    shape = _field(1, _text(2, "M")) + _field(1, _number(1, columns))
    tensor_type = _number(1, element) + _field(2, shape)
    return _text(1, name) + _field(2, _field(1, tensor_type))


def _varint(value: int) -> bytes:
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
