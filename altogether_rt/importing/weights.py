"""Reads weights from untrusted sources without running code in them.

A file written by torch.save is a pickle, and unpickling can run any code. Only tensors and plain
containers are accepted (`weights_only`); a safetensors file can contain nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from altogether_rt.artifacts.bundle import hash_file
from altogether_rt.errors import AltogetherError, reason
from altogether_rt.model.weight_files import check_weights_file, loading_failure

__all__ = ["check_finite", "find_state", "hash_weights", "read_folder", "read_weights"]

#: How deeply the weights may be nested in a training checkpoint: {"model": {"state_dict": {…}}}.
_MAX_DEPTH = 3

#: Maximum number of files that a model is split into.
_MAX_SHARDS = 512
_MAX_INDEX_BYTES = 64 << 20


def read_weights(path: Path) -> Mapping[str, Any]:
    """The content of a file of safetensors or torch.save: tensors by name, or nested mappings.

    A training checkpoint has its tensors somewhere in nested mappings (`find_state`). Tensors are
    memory-mapped where possible. Raises AltogetherError if the file does not exist, is damaged, or
    contains more than tensors and plain containers.
    """
    check_weights_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        # Training scripts save their arguments as a Namespace, which cannot run code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except Exception as error:  # the reader can raise anything for a damaged or hostile file
        raise loading_failure(path, error) from error
    if not isinstance(loaded, Mapping):
        raise AltogetherError(
            f"{path} contains a {type(loaded).__name__} instead of weights by name."
        )
    _check_sizes(loaded, path)
    return loaded


def find_state(loaded: Mapping[str, Any], marker: str) -> dict[str, Tensor]:
    """The tensors of a training checkpoint, from the mapping in which names contain `marker`.

    Of several such mappings, the outermost counts. A prefix before the marker (`module.`, `model.`)
    is removed. Empty if no name contains the marker.
    """
    for candidate in _mappings(loaded, _MAX_DEPTH):
        names = [name for name in candidate if isinstance(name, str) and marker in name]
        if names:
            prefix = min((name[: name.index(marker)] for name in names), key=len)
            return {
                name.removeprefix(prefix): tensor
                for name, tensor in candidate.items()
                if isinstance(name, str) and isinstance(tensor, Tensor)
            }
    return {}


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All weights of a Hugging Face model folder, in one file or several, safetensors preferred.

    Raises AltogetherError if there are none.
    """
    weights: dict[str, Tensor] = {}
    for file in _files(folder):
        weights |= {k: v for k, v in read_weights(file).items() if isinstance(v, Tensor)}
    return weights


def hash_weights(source: Path) -> str:
    """SHA-256 of a file of weights, in hex; of a folder, that of its files' hashes in order."""
    if not source.is_dir():
        return hash_file(source)
    hashes = "".join(hash_file(file) for file in _files(source))
    return hashlib.sha256(hashes.encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            return _shards(index)
    raise AltogetherError(
        f"{folder} has no weights: it must have model.safetensors or pytorch_model.bin."
    )


def check_finite(state: Mapping[str, Tensor], source: Path | str) -> None:
    """Raises AltogetherError if a weight is NaN or infinite; `source` is where it comes from."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            number = int((~torch.isfinite(tensor)).sum())
            raise AltogetherError(
                f"{source} has weights that are not numbers: {name:.200} has {number} NaN or "
                "infinite values, so no caption could be computed with it: give weights from "
                "before the training diverged, or download them again."
            )


def _shards(index: Path) -> list[Path]:
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError("it is too large")
        files = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        plain = all(Path(file).name == file for file in files)  # only files beside the index
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AltogetherError(f"{index} is not an index of weights: {reason(error)}.") from error
    if not plain or len(files) > _MAX_SHARDS:
        raise AltogetherError(
            f"{index} is not an index of weights: its file names are not plain, or are too many."
        )
    return [index.parent / file for file in files]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise AltogetherError(f"{path} is not a safetensors file: {reason(error)}.") from error


def _mappings(loaded: Mapping[Any, Any], depth: int) -> Iterator[Mapping[Any, Any]]:
    """The mapping and the mappings nested in it, outermost first."""
    yield loaded
    if depth > 1:
        for value in loaded.values():
            if isinstance(value, Mapping):
                yield from _mappings(value, depth - 1)


def _check_sizes(loaded: Mapping[Any, Any], path: Path) -> None:
    """Refuse tensors larger than their file: with strides of 0, a few bytes become terabytes."""
    size = path.stat().st_size
    for mapping in _mappings(loaded, _MAX_DEPTH):
        for name, tensor in mapping.items():
            if isinstance(tensor, Tensor) and tensor.numel() * tensor.element_size() > size:
                raise AltogetherError(f"{path} is damaged: {name!r} is larger than the file.")
