"""A checkpoint opened for captioning with PyTorch, without an export."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from altogether_rt.artifacts.checkpoint import CONFIG, Checkpoint
from altogether_rt.artifacts.stamps import FileStamps
from altogether_rt.config import CaptionerConfig
from altogether_rt.errors import AltogetherError
from altogether_rt.machine import gpu
from altogether_rt.machine.device import KVCacheType, find_gpu, parse_device
from altogether_rt.machine.torch_gpu import kernels_problem
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.runtime.base import DEFAULT_SLOTS, Runtime, fitting_slots
from altogether_rt.runtime.torch.arithmetic import Arithmetic
from altogether_rt.runtime.torch.device.api import CudaDevice, TorchDevice
from altogether_rt.runtime.torch.device.runtime import DeviceTorchRuntime
from altogether_rt.runtime.torch.float8 import FLOAT8_SM
from altogether_rt.runtime.torch.kernels.choice import kernel_failure
from altogether_rt.runtime.torch.kernels.slots import HeadLayout
from altogether_rt.runtime.torch.runtime import TorchRuntime

__all__ = ["ResolvedCheckpoint", "resolve_checkpoint"]

_LOG = logging.getLogger(__name__)
#: Of a GPU's memory, what the cache may take unless a number of slots is given.
_CACHE_FRACTION = 0.4


@dataclass(frozen=True)
class ResolvedCheckpoint:
    """A checkpoint that PyTorch can run here; its weights are not read yet."""

    folder: Path
    config: CaptionerConfig
    tokenizer_path: Path
    identity: str  # instead of a bundle's id: 12 hex digits
    torch_device: str  # `cpu`, `cuda:0`
    arithmetic: Arithmetic  # what is below half precision is opened by `export.open_compared`
    stamps: FileStamps  # of the files that `identity` is of
    allow_download: bool = False
    slow_because: str | None = None  # why a GPU is given plain PyTorch, without Triton's kernels

    def open(self, *, threads: int | None = None, num_slots: int | None = None) -> Runtime:
        """Read the weights. threads: of PyTorch's kernels. num_slots: None: as many as are fastest
        here.

        On a GPU whose kernels compile here it is `DeviceTorchRuntime`, otherwise `TorchRuntime`.
        Raises AltogetherError if a file was changed since it was resolved.
        """
        assert not self.arithmetic.is_reduced, "it is opened by export.open_compared"
        return self.open_model(self.load_model(threads=threads), num_slots=num_slots)

    def load_model(self, *, threads: int | None = None) -> CaptionerModel:
        """Read the weights, as they are. Arguments and errors as for `open`."""
        if threads is not None:
            torch.set_num_threads(threads)
        self.stamps.check()
        checkpoint = Checkpoint.load(self.folder, allow_download=self.allow_download)
        captioner = checkpoint.captioner()
        self.stamps.check()  # what was loaded is what was hashed
        return captioner

    def open_model(self, captioner: CaptionerModel, *, num_slots: int | None = None) -> Runtime:
        """`captioner`, which `load_model` gave, on the device.

        Raises AltogetherError if the kernels do not run there and nothing else computes so.
        """
        wanted = self.arithmetic
        if self.torch_device != "cpu" and self.slow_because is None:
            device = _cuda_device(self.torch_device)
            heads = HeadLayout.of(self.config.decoder)
            failure = kernel_failure(device.torch_device, wanted.type, heads, wanted.kept)
            if failure is None:
                return DeviceTorchRuntime(
                    captioner,
                    device,
                    num_slots=num_slots or self._fitting_slots(),
                    dtype=wanted.type,
                    kept=wanted.kept,
                    float8=wanted.float8,
                )
            if wanted.is_reduced:
                raise AltogetherError(
                    f"{wanted} cannot be used here, since Triton's kernels do not run: {failure}"
                )
            _LOG.warning("plain PyTorch runs, which is slower: %s", failure)
        slots = num_slots or DEFAULT_SLOTS
        return TorchRuntime(captioner, num_slots=slots, device=self.torch_device, dtype=wanted.type)

    def _fitting_slots(self) -> int:
        """As many slots as fill the products of a GPU, and take a part of its memory at most."""
        decoder = self.config.decoder
        vector_bytes = self.arithmetic.vector_bytes(decoder.head_dim)
        token_bytes = 2 * decoder.layers * decoder.num_kv_heads * vector_bytes
        memory_bytes = find_gpu(parse_device(self.torch_device)).memory_bytes
        return fitting_slots(_CACHE_FRACTION * memory_bytes, token_bytes * self.config.capacity)


def _cuda_device(torch_device: str) -> TorchDevice:
    return CudaDevice(torch.device(torch_device).index or 0)


def resolve_checkpoint(
    folder: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    kv_cache: KVCacheType = "auto",
    allow_download: bool = False,
) -> ResolvedCheckpoint:
    """device: auto is the first GPU, or the CPU without one. dtype: of mapper and decoder; auto is
    float16 on a GPU, float32 elsewhere; float8 is fp8 products of encoder, mapper and prompts,
    float8-all of decode steps too. kv_cache: how keys and values are kept; auto: in that type.
    allow_download: see `Checkpoint.load`.

    Raises AltogetherError for a device that is not there, or that lacks what a cache in 8 bits or
    fp8 products need if these are wanted, or a folder that is not a checkpoint.
    """
    where = _torch_device(device)
    chosen = ("float16" if where != "cpu" else "float32") if dtype == "auto" else dtype
    arithmetic = Arithmetic(chosen, kv_cache)
    slow_because = None if where == "cpu" else kernels_problem(_sm(where))
    if arithmetic.is_reduced:
        _check_gpu(where, arithmetic, slow_because)
    checkpoint = Checkpoint.load(folder, allow_download=allow_download)
    stamps = FileStamps.take([folder / CONFIG, checkpoint.weights_path, checkpoint.tokenizer_path])
    content = [checkpoint.config.to_dict(), checkpoint.sha256(), chosen]
    if kv_cache != "auto":
        content.append(kv_cache)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return ResolvedCheckpoint(
        folder=folder,
        config=checkpoint.config,
        tokenizer_path=checkpoint.tokenizer_path,
        identity=digest[:12],
        torch_device=where,
        arithmetic=arithmetic,
        stamps=stamps,
        allow_download=allow_download,
        slow_because=slow_because,
    )


def _check_gpu(where: str, wanted: Arithmetic, slow_because: str | None) -> None:
    """Raises AltogetherError if a device lacks fp8, or the kernels, that `wanted` needs."""
    if where == "cpu":
        raise AltogetherError(
            f"{wanted} needs an NVIDIA GPU: {wanted.instead(on_gpu=False)}, or --device cuda."
        )
    if wanted.needs_e4m3 and _sm(where) < FLOAT8_SM:
        found = find_gpu(parse_device(where))
        instead = "use --kv-cache int8" if wanted.float8 == "none" else wanted.instead()
        raise AltogetherError(
            f"{wanted} needs compute capability 8.9, and {found.name} has "
            f"{found.sm // 10}.{found.sm % 10}: {instead}."
        )
    if slow_because is not None:
        raise AltogetherError(f"{wanted} cannot be used here: {slow_because}.")


def _sm(torch_device: str) -> int:
    """Compute capability of a GPU that was found."""
    return find_gpu(parse_device(torch_device)).sm


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
