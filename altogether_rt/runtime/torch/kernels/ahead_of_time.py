"""Compiles the kernels for a GPU that need not be here: proof that they build for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from altogether_rt.runtime.torch.kernels import attention, device_code, row_device_code, rows
from altogether_rt.runtime.torch.kernels.plain_rows import Activation
from altogether_rt.runtime.torch.kernels.slots import HeadLayout

__all__ = [
    "COMPUTE_CAPABILITIES",
    "CompiledKernel",
    "compile_kernels",
    "compile_row_kernels",
]

#: What is compiled for: A100, RTX 30, RTX 40 and L4, H100 and H200, RTX 50.
COMPUTE_CAPABILITIES = (80, 86, 89, 90, 120)

_NAMES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int8: "i8",
    torch.float8_e4m3fn: "fp8e4nv",
}


@dataclass(frozen=True)
class CompiledKernel:
    """One kernel, built for one GPU."""

    name: str
    sm: int
    cubin: bytes
    shared_bytes: int  # of shared memory that a program needs


def compile_kernels(
    sm: int,
    heads: HeadLayout,
    *,
    dtype: torch.dtype = torch.float16,
    stored: torch.dtype | None = None,
    rotary: bool = False,
    max_tokens: int = 1,
) -> Iterator[CompiledKernel]:
    """The kernels of a decoder with these heads, for compute capability `sm` (90 is 9.0).

    dtype: of the step. stored: of the cache; None: as the step. max_tokens: that a row brings to
    a step. Raises what Triton raises if one does not build.
    """
    kept = stored or dtype
    pointers = {
        **dict.fromkeys(("QKV", "OUT"), f"*{_NAMES[dtype]}"),
        **dict.fromkeys(("KEYS", "VALUES"), f"*{_NAMES[kept]}"),
        **dict.fromkeys(("KEY_SCALES", "VALUE_SCALES", "ROTATION"), "*fp32"),
        **dict.fromkeys(("STARTS", "COUNTS", "PAST", "SLOTS", "POSITIONS"), "*i32"),
        **dict.fromkeys(("capacity", "slot_stride"), "i32"),
        "scale": "fp32",
    }
    values = attention.attend_constants(heads, max_tokens, kept, rotary)
    warps = attention.WARPS
    yield _compile("attend", device_code.attend_kernel, pointers, values, sm, warps["attend"])
    yield _compile(
        "store",
        device_code.store_kernel,
        pointers,
        attention.store_constants(heads, kept, rotary),
        sm,
        warps["store"],
    )


def compile_row_kernels(
    sm: int,
    width: int,
    kind: Activation,
    *,
    dtype: torch.dtype = torch.float16,
    product: torch.dtype | None = None,
    rms: bool = False,
    gated: bool = False,
    float8: bool = False,
) -> Iterator[CompiledKernel]:
    """Norm and activation of rows of `width` numbers, for compute capability `sm`.

    dtype: of the residual. product: of what products give; None: the same. float8: of what the
    kernels write. Raises what Triton raises if one does not build.
    """
    given, wanted = _NAMES[product or dtype], torch.float8_e4m3fn if float8 else dtype
    pointers = {
        "X": f"*{given}",
        "OUT": f"*{_NAMES[wanted]}",
        **dict.fromkeys(("RESIDUAL", "SUM"), f"*{_NAMES[dtype]}"),
        **dict.fromkeys(("WEIGHT", "BIAS", "SCALES"), "*fp32"),
        "eps": "fp32",
    }
    warps = rows.row_warps(width)
    norm = rows.add_norm_constants(width, add=True, rms=rms, shift=not rms, float8=float8)
    yield _compile("add_norm", row_device_code.add_norm_kernel, pointers, norm, sm, warps)
    values = rows.activate_constants(width, kind, gated=gated, float8=float8)
    yield _compile("activate", row_device_code.activate_kernel, pointers, values, sm, warps)


def _compile(
    name: str,
    kernel: Any,
    pointers: Mapping[str, str],
    values: Mapping[str, Any],
    sm: int,
    warps: int,
) -> CompiledKernel:
    signature = {
        each: "constexpr" if each in values else pointers[each] for each in kernel.arg_names
    }
    built = compile_kernel(
        ASTSource(kernel, signature, dict(values), _alignment(kernel, signature)),
        target=GPUTarget("cuda", sm, 32),
        options={"num_warps": warps, "enable_fp_fusion": True},
    )
    return CompiledKernel(name, sm, built.asm["cubin"], built.metadata.shared)


def _alignment(kernel: Any, signature: Mapping[str, str]) -> dict[tuple[int], list[list[Any]]]:
    """What Triton finds out when a kernel is started, without which other code is built: arrays
    begin at multiples of 16 bytes, and slots are a multiple of 16 numbers apart."""
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for index, each in enumerate(kernel.params):
        aligned = signature[each.name].startswith("*") or each.name == "slot_stride"
        if aligned and not each.do_not_specialize_on_alignment:
            attributes[(index,)] = [["tt.divisibility", 16]]
    return attributes
