"""A checkpoint opened for captioning with PyTorch, without an export."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from altogether_rt.artifacts.checkpoint import Checkpoint
from altogether_rt.config import CaptionerConfig
from altogether_rt.errors import AltogetherError
from altogether_rt.machine import gpu
from altogether_rt.machine.device import find_gpu, parse_device
from altogether_rt.runtime.torch.runtime import TorchRuntime

__all__ = ["Dtype", "OpenedCheckpoint", "open_checkpoint"]

Dtype = Literal["auto", "float32", "float16", "bfloat16"]
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class OpenedCheckpoint:
    """What captioning needs of a checkpoint."""

    config: CaptionerConfig
    runtime: TorchRuntime
    tokenizer_path: Path
    identity: str  # in the place of a bundle's id: 12 hex digits


def open_checkpoint(
    folder: Path, *, device: str = "auto", dtype: Dtype = "auto", num_slots: int = 16,
    threads: int | None = None,
) -> OpenedCheckpoint:  # fmt: skip
    """device: auto is the first GPU, or the processor without one. dtype: of mapper and decoder;
    auto is float16 on a GPU, float32 elsewhere.

    Raises AltogetherError for a device that is not there, or a folder that is no checkpoint.
    """
    where = _torch_device(device)
    if dtype not in ("auto", *_DTYPES):
        raise AltogetherError(f"there is no dtype {dtype!r}: give auto, {', '.join(_DTYPES)}.")
    chosen = ("float16" if where != "cpu" else "float32") if dtype == "auto" else dtype
    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = Checkpoint.load(folder)
    runtime = TorchRuntime(
        checkpoint.captioner(), num_slots=num_slots, device=where, dtype=_DTYPES[chosen]
    )
    content = [checkpoint.config.to_dict(), checkpoint.sha256(), chosen]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return OpenedCheckpoint(checkpoint.config, runtime, checkpoint.tokenizer_path, digest[:12])


def _torch_device(device: str) -> str:
    wanted = parse_device(device)
    if wanted.kind == "cpu":
        return "cpu"
    if wanted.kind == "auto":
        usable = gpu.find_gpus().problem is None and torch.cuda.is_available()
        return "cuda:0" if usable else "cpu"
    if wanted.kind == "tensorrt":
        raise AltogetherError(
            "a checkpoint runs on cpu or cuda: export it for TensorRT with altogether-rt export "
            "--target tensorrt-fp16."
        )
    index = find_gpu(wanted).index
    if not torch.cuda.is_available():
        raise AltogetherError(
            f"PyTorch {torch.__version__} here cannot use CUDA: run pip install --force-reinstall "
            "torch with a build for it (https://pytorch.org/get-started), or use --device cpu."
        )
    return f"cuda:{index}"
