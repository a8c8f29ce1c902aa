"""Which attention a device runs: Triton's kernels where they can be compiled, or plain PyTorch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from altogether_rt.errors import reason
from altogether_rt.machine.device import has_module
from altogether_rt.runtime.torch.kernels import plain
from altogether_rt.runtime.torch.kernels.slots import (
    HeadLayout,
    LayerSlots,
    PromptRows,
    RaggedRows,
)

__all__ = [
    "PLAIN",
    "AttentionKernels",
    "choose_kernels",
    "kernel_failure",
    "triton_kernels",
    "variable_length",
]

#: What flash attention takes.
_MAX_FLASH_HEAD_DIM = 256

_Attend = Callable[[Tensor, LayerSlots, RaggedRows, HeadLayout, Tensor | None], Tensor]
_Store = Callable[[Tensor, LayerSlots, PromptRows, HeadLayout, Tensor | None], None]
_Prompts = Callable[[Tensor, PromptRows, HeadLayout], Tensor]


@dataclass(frozen=True)
class AttentionKernels:
    """Attention of a step; `plain` documents each function."""

    attend: _Attend
    store: _Store
    attend_prompts: _Prompts
    #: Whether `attend` never waits for the device, as a CUDA graph requires.
    capturable: bool = True


PLAIN = AttentionKernels(plain.attend, plain.store, plain.attend_prompts, capturable=False)


def triton_kernels(attend_prompts: _Prompts = plain.attend_prompts) -> AttentionKernels:
    """Those in Triton, beside a function for prompts. Imports Triton."""
    from altogether_rt.runtime.torch.kernels import attention

    return AttentionKernels(attention.attend, attention.store, attend_prompts)


def choose_kernels(
    device: torch.device, dtype: torch.dtype, heads: HeadLayout
) -> tuple[AttentionKernels, str | None]:
    """The fastest for steps of this type on this device; and why not Triton's, if not those."""
    if device.type != "cuda":
        return PLAIN, "Triton's kernels need an NVIDIA GPU"
    if not has_module("triton"):
        return PLAIN, "Triton is not installed: pip install triton (PyTorch for Linux brings it)"
    flash = (
        torch.cuda.get_device_capability(device) >= (8, 0)
        and dtype in (torch.float16, torch.bfloat16)
        and heads.head_dim % 8 == 0
        and heads.head_dim <= _MAX_FLASH_HEAD_DIM
        and has_module("torch.nn.attention.varlen")
    )
    return triton_kernels(flash_prompts if flash else plain.attend_prompts), None


def kernel_failure(device: torch.device, dtype: torch.dtype, heads: HeadLayout) -> str | None:
    """What happens when the kernels run once on this device; None if they work.

    Triton compiles and starts them with what the machine has: a compiler, headers, a driver.
    """
    kernels, why = choose_kernels(device, dtype, heads)
    if why is not None:
        return why
    on_device = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    try:
        with on_device:
            finite = _finite(kernels, device, dtype, heads)
    except Exception as error:  # Triton, its compiler, the linker and the driver raise their own
        return reason(error, 300)
    return None if finite else "the kernels computed no numbers"


def _finite(
    kernels: AttentionKernels, device: torch.device, dtype: torch.dtype, heads: HeadLayout
) -> bool:
    """Whether each kernel makes finite numbers of zeros."""
    qkv = torch.zeros(2, heads.qkv_width, dtype=dtype, device=device)
    shape = (2, heads.kv_heads, 4, heads.head_dim)
    slots = LayerSlots(*(torch.zeros(shape, dtype=dtype, device=device) for _ in range(2)))
    index = torch.arange(3, dtype=torch.int32, device=device)
    rows = RaggedRows(index[:2], torch.ones_like(index[:2]), index[:2], max_tokens=1)
    prompts = PromptRows(index[:2] * 0, index[:2], index[::2].contiguous(), (2,))
    found = [kernels.attend(qkv, slots, rows, heads, None)]
    kernels.store(qkv, slots, prompts, heads, None)
    found.append(kernels.attend_prompts(qkv, prompts, heads))
    return all(bool(torch.isfinite(each).all()) for each in found)


@functools.cache
def _parameters(function: Callable[..., object]) -> frozenset[str]:
    """Names of its parameters, which take longer to read than the call itself."""
    return frozenset(inspect.signature(function).parameters)


def flash_prompts(qkv: Tensor, prompts: PromptRows, heads: HeadLayout) -> Tensor:
    """`plain.attend_prompts` in one call of flash attention (half precision, on a GPU)."""
    from torch.nn.attention.varlen import varlen_attn

    return variable_length(varlen_attn, qkv, prompts, heads)


def variable_length(
    function: Callable[..., object], qkv: Tensor, prompts: PromptRows, heads: HeadLayout
) -> Tensor:
    """Calls PyTorch's `varlen_attn`, whose options differ between versions."""
    known = _parameters(function)
    options: dict[str, object] = (
        {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    )
    q, k, v = plain.split_heads(qkv, heads)
    if heads.group > 1 and "enable_gqa" in known:
        options["enable_gqa"] = True
    elif heads.group > 1:
        k, v = (part.repeat_interleave(heads.group, dim=1) for part in (k, v))
    longest = max(prompts.lengths)
    mixed = function(q, k, v, prompts.bounds, prompts.bounds, longest, longest, **options)
    assert isinstance(mixed, Tensor)
    return mixed.reshape(len(qkv), -1)
