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
from altogether_rt.machine.device import find_gpu, parse_device
from altogether_rt.machine.torch_gpu import kernels_problem
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.runtime.base import Runtime
from altogether_rt.runtime.select import DEFAULT_SLOTS
from altogether_rt.runtime.torch.device.api import CudaDevice, TorchDevice
from altogether_rt.runtime.torch.device.runtime import DeviceTorchRuntime
from altogether_rt.runtime.torch.float8 import FLOAT8_SM
from altogether_rt.runtime.torch.kernels.choice import kernel_failure
from altogether_rt.runtime.torch.kernels.slots import HeadLayout
from altogether_rt.runtime.torch.runtime import TorchRuntime

__all__ = ["ResolvedCheckpoint", "resolve_checkpoint"]

_LOG = logging.getLogger(__name__)
#: Slots that a large GPU is given: a step of 256 rows takes little longer than one of 128.
_MAX_DEFAULT_SLOTS = 256
#: Of a GPU's memory, what the cache may take unless a number of slots is given.
_CACHE_FRACTION = 0.4
_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8": torch.float16,  # of everything but products in fp8
}


@dataclass(frozen=True)
class ResolvedCheckpoint:
    """A checkpoint that PyTorch can run here; its weights are not read yet."""

    folder: Path
    config: CaptionerConfig
    tokenizer_path: Path
    identity: str  # instead of a bundle's id: 12 hex digits
    torch_device: str  # `cpu`, `cuda:0`
    dtype: str  # of mapper and decoder; `float8` is opened by `export.open_float8`
    stamps: FileStamps  # of the files that `identity` is of
    allow_download: bool = False
    slow_because: str | None = None  # why a GPU is given plain PyTorch, without Triton's kernels

    def open(self, *, threads: int | None = None, num_slots: int | None = None) -> Runtime:
        """Read the weights. threads: of PyTorch's kernels. num_slots: None: as many as are fastest
        here.

        On a GPU whose kernels compile here it is `DeviceTorchRuntime`, otherwise `TorchRuntime`.
        Raises AltogetherError if a file was changed since it was resolved.
        """
        assert not self.float8, "its outliers are to be smoothed before it is opened"
        return self.open_model(self.load_model(threads=threads), num_slots=num_slots)

    @property
    def float8(self) -> bool:
        return self.dtype == "float8"

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

        Raises AltogetherError if the kernels do not run there and nothing else computes in fp8.
        """
        dtype = _DTYPES[self.dtype]
        if self.torch_device != "cpu" and self.slow_because is None:
            device = _cuda_device(self.torch_device)
            heads = HeadLayout.of(self.config.decoder)
            failure = kernel_failure(device.torch_device, dtype, heads)
            if failure is None:
                slots = num_slots or self._fitting_slots(dtype.itemsize)
                return DeviceTorchRuntime(
                    captioner, device, num_slots=slots, dtype=dtype, float8=self.float8
                )
            if self.float8:
                raise AltogetherError(
                    f"float8 cannot be used here, since Triton's kernels do not run: {failure}"
                )
            _LOG.warning("plain PyTorch runs, which is slower: %s", failure)
        slots = num_slots or DEFAULT_SLOTS
        return TorchRuntime(captioner, num_slots=slots, device=self.torch_device, dtype=dtype)

    def _fitting_slots(self, itemsize: int) -> int:
        """As many slots as fill the products of a GPU, and take a part of its memory at most."""
        decoder = self.config.decoder
        token_bytes = 2 * decoder.layers * decoder.num_kv_heads * decoder.head_dim * itemsize
        memory_bytes = find_gpu(parse_device(self.torch_device)).memory_bytes
        fitting = int(_CACHE_FRACTION * memory_bytes / (token_bytes * self.config.capacity))
        return max(DEFAULT_SLOTS, min(fitting // 8 * 8, _MAX_DEFAULT_SLOTS))


def _cuda_device(torch_device: str) -> TorchDevice:
    return CudaDevice(torch.device(torch_device).index or 0)


def resolve_checkpoint(
    folder: Path, *, device: str = "auto", dtype: str = "auto", allow_download: bool = False
) -> ResolvedCheckpoint:
    """device: auto is the first GPU, or the CPU without one. dtype: of mapper and decoder; auto is
    float16 on a GPU, float32 elsewhere; float8 is fp8 products of encoder, mapper and prompts.
    allow_download: see `Checkpoint.load`.

    Raises AltogetherError for a device that is not there, or that has no fp8 products if these are
    wanted, or a folder that is not a checkpoint.
    """
    where = _torch_device(device)
    if dtype not in ("auto", *_DTYPES):
        raise AltogetherError(f"there is no dtype {dtype!r}: give auto, {', '.join(_DTYPES)}.")
    chosen = ("float16" if where != "cpu" else "float32") if dtype == "auto" else dtype
    slow_because = None if where == "cpu" else kernels_problem(_sm(where))
    if chosen == "float8":
        _check_float8(where, slow_because)
    checkpoint = Checkpoint.load(folder, allow_download=allow_download)
    stamps = FileStamps.take([folder / CONFIG, checkpoint.weights_path, checkpoint.tokenizer_path])
    content = [checkpoint.config.to_dict(), checkpoint.sha256(), chosen]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return ResolvedCheckpoint(
        folder=folder,
        config=checkpoint.config,
        tokenizer_path=checkpoint.tokenizer_path,
        identity=digest[:12],
        torch_device=where,
        dtype=chosen,
        stamps=stamps,
        allow_download=allow_download,
        slow_because=slow_because,
    )


def _check_float8(where: str, slow_because: str | None) -> None:
    if where == "cpu":
        raise AltogetherError("float8 needs an NVIDIA GPU: use float32, or --device cuda.")
    if _sm(where) < FLOAT8_SM:
        found = find_gpu(parse_device(where))
        raise AltogetherError(
            f"float8 needs compute capability 8.9, and {found.name} has "
            f"{found.sm // 10}.{found.sm % 10}: use float16."
        )
    if slow_because is not None:
        raise AltogetherError(f"float8 cannot be used here: {slow_because}.")


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
