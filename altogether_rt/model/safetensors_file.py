"""Writes a safetensors file one tensor at a time, so that it may be larger than memory.

The format: eight bytes of header length, a JSON header of names, types, shapes and offsets, then
the bytes of all tensors (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from altogether_rt.errors import AltogetherError

__all__ = ["LazyTensor", "write_safetensors"]

_DTYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_HEADER_ALIGNMENT_BYTES = 64


@dataclass(frozen=True)
class LazyTensor:
    """A float32 tensor that is made when it is written and let go afterwards."""

    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def numel(self) -> int:
        return math.prod(self.shape)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor | LazyTensor]) -> None:
    """Writes `tensors` to `path` and flushes the file to disk.

    Raises AltogetherError for a type that safetensors files of this project do not hold.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise AltogetherError(f"{name} has the type {tensor.dtype}, which cannot be saved.")
    # Wide types first: every tensor then starts at a multiple of its element size.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.dtype.itemsize
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _HEADER_ALIGNMENT_BYTES)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            file.write(_bytes_of(name, tensors[name]))
        file.flush()
        os.fsync(file.fileno())


def _bytes_of(name: str, tensor: Tensor | LazyTensor) -> memoryview:
    whole = tensor.make() if isinstance(tensor, LazyTensor) else tensor
    assert whole.shape == tensor.shape and whole.dtype == tensor.dtype, name
    flat = whole.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data
