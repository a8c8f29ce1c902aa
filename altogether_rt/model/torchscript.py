"""The weights in a TorchScript archive, such as OpenAI's CLIP files, without running its program.

The archive is a zip of stored members: `data.pkl` describes a tree of modules, `data/N` are the
bytes of tensors, `code/` is the program. `torch.jit.load` compiles that program; here it is not
read. Pickle can call any function that it can name, so only names from a short list have a meaning,
and each means something in this module: a module of the program is a plain record of what was set
on it.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from altogether_rt.errors import AltogetherError, reason

__all__ = ["is_torchscript", "read_torchscript"]

_ZIP: Final = b"PK\x03\x04"
_MAX_DESCRIPTION_BYTES: Final = 64 << 20
_MAX_DEPTH: Final = 32  # modules in modules
_MAX_DIMENSIONS: Final = 8

#: Storage classes of torch that weights have.
_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive; False too if it cannot be read."""
    try:
        with path.open("rb") as file:
            if file.read(len(_ZIP)) != _ZIP:
                return False
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False
    return "constants.pkl" in names or any(name.startswith("code/") for name in names)


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """All tensors of a TorchScript archive, by the names that its `state_dict()` has.

    Raises AltogetherError if it is damaged, or its description does more than build modules of
    tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = _Description(archive).load()
    except AltogetherError:
        raise
    except Exception as error:  # pickle raises anything for a damaged or hostile description
        raise AltogetherError(
            f"{path} is damaged, or is not a TorchScript archive of weights "
            f"({reason(error, 100)}), and was not loaded: download it again."
        ) from error
    if not isinstance(root, _Module):
        raise AltogetherError(f"{path} contains no module with weights.")
    state: dict[str, Tensor] = {}
    _collect(root, "", state, 0)
    return state


class _Module:
    """What was set on a module of the program."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a module that is not a table of values")
        self.values: dict[str, Any] = {str(key): value for key, value in state.items()}


def _collect(module: _Module, prefix: str, state: dict[str, Tensor], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise AltogetherError("the weights are modules in modules without an end.")
    for name, value in getattr(module, "values", {}).items():
        if isinstance(value, Tensor):
            state[prefix + name] = value
        elif isinstance(value, _Module):
            _collect(value, f"{prefix}{name}.", state, depth + 1)


class _Description(pickle.Unpickler):
    """`data.pkl`, in which every name means something of this module."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        (name,) = [n for n in archive.namelist() if n.partition("/")[2] == "data.pkl"]
        self._root = name.removesuffix("data.pkl")
        self._read: dict[str, Tensor] = {}
        super().__init__(io.BytesIO(self._member(name, _MAX_DESCRIPTION_BYTES)))

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the description stands for. Raises UnpicklingError for any other."""
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        known: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor_v2": _rebuild,
            "collections.OrderedDict": OrderedDict,
            **{f"torch.jit._pickle.build_{kind}list": list for kind in _LISTS},
        }
        found = known.get(f"{module}.{name}")
        if found is None:
            raise pickle.UnpicklingError(f"it needs {module[:60]}.{name[:60]}")
        return found

    def persistent_load(self, pid: Any) -> Tensor:
        """The numbers of a storage, in one dimension."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not str(key).isalnum():
            raise pickle.UnpicklingError("a storage that is none")
        if str(key) not in self._read:
            data = self._member(f"{self._root}data/{key}")
            self._read[str(key)] = torch.frombuffer(bytearray(data), dtype=dtype)
        storage = self._read[str(key)]
        if storage.dtype != dtype or len(storage) < count:
            raise pickle.UnpicklingError("a storage that is cut off")
        return storage

    def _member(self, name: str, limit: int | None = None) -> bytes:
        """Bytes of a member, which torch stores as they are: no larger than the file."""
        about = self._archive.getinfo(name)
        if about.compress_type != zipfile.ZIP_STORED or (limit and about.file_size > limit):
            raise pickle.UnpicklingError(f"{name[:60]} is compressed or too large")
        return self._archive.read(about)


_LISTS: Final = ("int", "double", "bool", "tensor")


def _rebuild(
    storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: object
) -> Tensor:
    """A tensor of a storage. Raises UnpicklingError if it reads beyond it, or more than it has."""
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS or min(numbers) < 0:
        raise pickle.UnpicklingError("a tensor of no shape")
    reach = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1
    count: int = math.prod(size)
    if count > len(storage) or (count and reach > len(storage)):
        raise pickle.UnpicklingError("a tensor larger than its storage")
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)
