"""Writes a safetensors file one tensor at a time, so that memory is that of the largest tensor.

The format (https://github.com/huggingface/safetensors): the length of the header in 8 bytes, a JSON
object with type, shape and offsets of each tensor by name, and the tensors' bytes without gaps. The
library's own writer wants all tensors in memory at once, in the type that they are stored in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

__all__ = ["write_tensors"]

#: Types other than float32 that the state of a module can have.
_TYPES: Final = {
    torch.int64: ("I64", 8),
    torch.int32: ("I32", 4),
    torch.uint8: ("U8", 1),
    torch.bool: ("BOOL", 1),
}
_FLOAT: Final = ("F32", 4)
_ALIGNMENT: Final = 8


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` to `path`, floating point as float32.

    Tensors are converted one after the other: those that are memory-mapped, or stored in fewer
    bits, need no room for all of them. Raises OSError if the file cannot be written.
    """
    names = sorted(tensors)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        tensor = tensors[name]
        kind, size = _FLOAT if tensor.is_floating_point() else _TYPES[tensor.dtype]
        start, end = end, end + size * math.prod(tensor.shape)
        header[name] = {"dtype": kind, "shape": [*tensor.shape], "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            tensor = tensors[name].detach()
            tensor = tensor.float() if tensor.is_floating_point() else tensor
            file.write(tensor.contiguous().cpu().reshape(-1).numpy().data)
