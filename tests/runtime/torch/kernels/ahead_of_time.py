"""The Triton kernels built for GPUs that are not here; `test_kernels.py` runs this file."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch
import triton

from altogether_rt.runtime.torch.float8 import FLOAT8_SM
from altogether_rt.runtime.torch.kernels import device_code
from altogether_rt.runtime.torch.kernels.ahead_of_time import (
    COMPUTE_CAPABILITIES,
    compile_kernels,
    compile_row_kernels,
)
from altogether_rt.runtime.torch.kernels.plain_rows import Activation
from altogether_rt.runtime.torch.kernels.slots import HeadLayout

OPT = HeadLayout(32, 32, 64)  # OPT-1.3B
LLAMA = HeadLayout(32, 8, 64)  # Llama 3.2 1B
SMOLLM = HeadLayout(9, 3, 64)  # SmolLM2-135M
#: A block's shared memory on the smallest of these GPUs (compute capability 8.6).
MAX_SHARED_BYTES = 99 << 10


@pytest.mark.parametrize("sm", COMPUTE_CAPABILITIES)
@pytest.mark.parametrize(("heads", "rotary", "max_tokens"), [(OPT, False, 1), (LLAMA, True, 16)])
def test_kernels_build(heads: HeadLayout, rotary: bool, max_tokens: int, sm: int) -> None:
    for kernel in compile_kernels(sm, heads, rotary=rotary, max_tokens=max_tokens):
        assert kernel.cubin[:4] == b"\x7fELF"
        assert kernel.shared_bytes <= MAX_SHARED_BYTES


@pytest.mark.parametrize("heads", [OPT, HeadLayout(32, 32, 128)])
@pytest.mark.parametrize("stored", [torch.float16, torch.int8, torch.float8_e4m3fn])
def test_many_programs_of_a_decode_step_fit_on_a_multiprocessor(
    stored: torch.dtype, heads: HeadLayout, tmp_path: Path
) -> None:
    """Attention waits for memory, so enough must be asked for at once: five programs of 128 threads
    share the 65,536 registers if each thread has 96, and none of them is kept in memory."""
    (kernel, _) = compile_kernels(90, heads, stored=stored)
    (tmp_path / "attend.cubin").write_bytes(kernel.cubin)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    said = subprocess.run(
        [tool, "-res-usage", tmp_path / "attend.cubin"], capture_output=True, text=True, check=True
    )
    found = re.search(r"REG:(\d+) STACK:(\d+)", said.stdout + said.stderr)
    assert found is not None
    registers, stack = map(int, found.groups())
    assert (registers <= 96, stack) == (True, 0), registers


def test_parts_of_an_array_need_no_kernel_of_their_own() -> None:
    """They begin at any number, so that their alignment says nothing."""
    for kernel, parts in (
        (device_code.attend_kernel, {"STARTS", "COUNTS", "PAST"}),
        (device_code.store_kernel, {"SLOTS", "POSITIONS"}),
    ):
        unaligned = {each.name for each in kernel.params if each.do_not_specialize_on_alignment}
        assert unaligned == parts


def test_three_heads_to_one_and_bfloat16_build() -> None:
    assert list(compile_kernels(80, SMOLLM, rotary=True, dtype=torch.bfloat16))


@pytest.mark.parametrize("stored", [torch.int8, torch.float8_e4m3fn])
def test_caches_of_eight_bits_build(stored: torch.dtype) -> None:
    assert list(compile_kernels(89, LLAMA, stored=stored, rotary=True, max_tokens=16))


def test_prompts_in_fp8_are_stored_in_half_precision() -> None:
    """Products in fp8 give bfloat16, and the cache is float16, or int8."""
    for stored in (torch.float16, torch.int8):
        assert list(compile_kernels(89, OPT, dtype=torch.bfloat16, stored=stored))


def test_fp8_does_not_build_for_a_gpu_without_it() -> None:
    with pytest.raises(Exception, match="fp8e4nv"):
        list(compile_kernels(80, OPT, stored=torch.float8_e4m3fn))


#: Width, activation, and whether the norm is an RMS norm and the layer gated: of feed-forward
#: layers in ViT-H and in Llama 3.2 1B.
ROWS: tuple[tuple[int, Activation, bool, bool], ...] = (
    (5120, "quick_gelu", False, False),
    (8192, "silu", True, True),
)


@pytest.mark.parametrize("sm", COMPUTE_CAPABILITIES)
@pytest.mark.parametrize(("width", "kind", "rms", "gated"), ROWS)
def test_norms_and_activations_build(
    width: int, kind: Activation, rms: bool, gated: bool, sm: int
) -> None:
    for float8 in (False, True) if sm >= FLOAT8_SM else (False,):
        built = list(
            compile_row_kernels(
                sm,
                width,
                kind,
                product=torch.bfloat16 if float8 else None,
                rms=rms,
                gated=gated,
                float8=float8,
            )
        )
        assert [kernel.cubin[:4] for kernel in built] == [b"\x7fELF"] * 2
        assert max(kernel.shared_bytes for kernel in built) <= MAX_SHARED_BYTES


@pytest.mark.parametrize("kind", ["none", "relu", "gelu", "gelu_tanh"])
def test_other_activations_build(kind: Activation) -> None:
    assert list(compile_row_kernels(90, 1280, kind, dtype=torch.bfloat16, float8=True))
