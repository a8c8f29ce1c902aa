"""Which attention a device runs: Triton's kernels where they can be compiled, or plain PyTorch."""

from __future__ import annotations

import functools
import inspect
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from altogether_rt.errors import reason
from altogether_rt.machine.device import has_module
from altogether_rt.runtime.torch.kernels import plain
from altogether_rt.runtime.torch.kernels.slots import (
    CacheType,
    HeadLayout,
    LayerSlots,
    PromptRows,
    RaggedRows,
    dequantize,
)
from altogether_rt.runtime.torch.kernels.trial import distance, on_device

__all__ = [
    "PLAIN",
    "AttentionKernels",
    "choose_kernels",
    "kernel_failure",
    "prompts_failure",
    "triton_kernels",
    "variable_length",
]

_LOG = logging.getLogger(__name__)
#: Tokens of what is tried before a kernel is used; several blocks of a kernel.
_TRIED = 40
#: Largest difference from plain PyTorch, as a fraction of a result's norm, before a kernel is
#: called wrong. Rounding makes less than half of it, in bfloat16.
_TOLERANCE = 0.02
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
    if flash and (failure := prompts_failure(flash_prompts, device, dtype, heads)) is not None:
        _LOG.warning("prompts are attended to one by one, which is slower: %s", failure)
        flash = False
    return triton_kernels(flash_prompts if flash else plain.attend_prompts), None


def prompts_failure(
    attend_prompts: _Prompts, device: torch.device, dtype: torch.dtype, heads: HeadLayout
) -> str | None:
    """What happens when attention within prompts runs once; None if it agrees with PyTorch's."""
    lengths = (_TRIED, 1, 2 * _TRIED)
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
    index = torch.zeros(sum(lengths), dtype=torch.int32, device=device)
    prompts = PromptRows(index, index, bounds, lengths)
    try:
        with torch.inference_mode(), on_device(device):
            qkv = _random(len(index), heads, device, dtype)
            wanted = plain.attend_prompts(qkv, prompts, heads)
            return _disagreement(attend_prompts(qkv, prompts, heads), wanted)
    except Exception as error:  # of PyTorch's own, or of the driver
        return reason(error, 300)


def kernel_failure(
    device: torch.device, dtype: torch.dtype, heads: HeadLayout, kept: CacheType = "same"
) -> str | None:
    """What happens when the kernels run once on this device; None if they work.

    Triton compiles and starts them with what the machine has: a compiler, headers, a driver. kept:
    how the cache keeps keys and values.
    """
    kernels, why = choose_kernels(device, dtype, heads)
    if why is not None:
        return why
    try:
        with torch.inference_mode(), on_device(device):
            return _step_failure(kernels, device, dtype, heads, kept)
    except Exception as error:  # Triton, its compiler, the linker and the driver raise their own
        return reason(error, 300)


def _step_failure(
    kernels: AttentionKernels,
    device: torch.device,
    dtype: torch.dtype,
    heads: HeadLayout,
    kept: CacheType,
) -> str | None:
    """Where a decode step of two rows and a prompt differ from the same in plain PyTorch."""
    qkv = _random(2, heads, device, dtype)
    shape = (2, heads.kv_heads, 4 * _TRIED, heads.head_dim)
    slots_before = LayerSlots.holding(
        torch.randn(shape, device=device).to(dtype),
        torch.randn(shape, device=device).to(dtype),
        kept,
    )
    index = torch.arange(3, dtype=torch.int32, device=device)
    past = torch.tensor([3 * _TRIED, 2], dtype=torch.int32, device=device)
    rows = RaggedRows(index[:2], torch.ones_like(past), past, max_tokens=1)
    prompts = PromptRows(index[:2] * 0, index[:2], index[::2].contiguous(), (2,))
    found = []
    for each in (kernels, PLAIN):
        slots = slots_before.copy()
        step = each.attend(qkv.clone(), slots, rows, heads, None)
        prompt = qkv.clone()
        each.store(prompt, slots, prompts, heads, None)
        within = each.attend_prompts(prompt, prompts, heads)
        keys = dequantize(slots.keys, slots.key_scales)
        values = dequantize(slots.values, slots.value_scales)
        found.append((step, within, keys, values))
    told = (_disagreement(one, other) for one, other in zip(*found, strict=True))
    return next(filter(None, told), None)


def _random(count: int, heads: HeadLayout, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.randn(count, heads.qkv_width, device=device).to(dtype)


def _disagreement(found: Tensor, wanted: Tensor) -> str | None:
    """What is said of a result too far from the one wanted; of no numbers, too."""
    away = distance(found, wanted)
    return None if away <= _TOLERANCE else f"the kernels give other numbers: {away:.3g} away"


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
